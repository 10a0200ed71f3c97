"""From a finished cell to a delta: exact, in factors where the method has them, or one line that says why not."""

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from moppa.merging.experts import check_method, delta_of, head_name, load_expert
from moppa.merging.updates import LowRank, dense
from moppa.record.trained import Finished
from moppa.sweep.resolve import resolve_cell
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import ROOT, TOY, config_of, mostly_slow
from tests.models import frozen_model, model_with, perturbed

TABLE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
MERGES = dict(re.findall(r"^\| `(\w+)` \|.*\| (yes|no) \| [A-Z]", TABLE, re.MULTILINE))
NO_DELTA = {"linear", "id3"}  # ID3 selects its weights while it trains
WEIGHTS = [method for method, merges in MERGES.items() if merges == "yes" and method not in NO_DELTA]
OTHERS = [method for method, merges in MERGES.items() if merges == "no"]
FACTORED = {"lora", "nola", "bi_lora", "mola", "mos", "fact_tt", "fact_tk"}


def finished(method, backbone="class token"):
    """Returns a small expert with arbitrary trained values, as its record would give it."""
    model = perturbed(model_with(method, backbone)).eval()
    record = {"method": method, "config": {"backbone": {"image_size": 64}}}
    return Finished(path=Path("none.json"), record=record, model=model, backbone=frozen_model(backbone).eval())


@pytest.mark.parametrize("method", mostly_slow(WEIGHTS, {"lora", "ssf", "full"}))
def test_the_pretrained_weights_with_the_delta_give_the_experts_logits(method):
    expert = finished(method)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = expert.model(images)
    delta = delta_of(expert)
    assert {type(update) for update in delta.values()} <= ({LowRank} if method in FACTORED else {torch.Tensor, LowRank})
    plain = expert.backbone
    with torch.no_grad():
        for name, update in delta.items():
            plain.get_parameter(name).add_(dense(update))
    head: nn.Module = plain.get_submodule(head_name(plain))
    head.load_state_dict(expert.model.get_submodule(head_name(plain)).state_dict())
    torch.testing.assert_close(plain(images), expected, rtol=1e-4, atol=1e-4)


def test_factors_of_q_k_and_v_are_one_update_of_their_weight():
    update = delta_of(finished("lora"))["blocks.0.attn.qkv.weight"]
    assert isinstance(update, LowRank)
    width = update.down.shape[1]
    assert update.up.shape == (3 * width, 16)  # rank 8 on q and on v
    assert not update.up[width : 2 * width].any()


@pytest.mark.parametrize("method", mostly_slow(OTHERS, {"adapter"}))
def test_a_method_that_changes_activations_is_refused_in_one_line(method):
    with pytest.raises(UserError, match=rf"^{method} is not a weight: it changes activations or adds tensors.*lora"):
        delta_of(finished(method))


def test_a_method_that_trains_the_head_alone_has_nothing_to_merge():
    with pytest.raises(UserError, match=r"linear changes no tensor of the backbone"):
        delta_of(finished("linear"))


@pytest.mark.parametrize(
    ("method", "message"),
    [("adapter", "adapter is not a weight"), ("linear", "linear changes no tensor"), ("lora", "")],
)
def test_a_method_is_refused_before_its_experts_are_trained(method, message):
    cell = resolve_cell(config_of(*TOY, f"method={method}"))
    with pytest.raises(UserError, match=message) if message else nullcontext():
        check_method(cell)


@pytest.mark.slow  # trains a cell
def test_a_cell_is_loaded_from_its_record_and_its_trained_tensors(toy, tmp_path):
    cell = run_cell(config_of(*toy, "method=lora", "train.lr=1e-2", "train.epochs=1"))
    expert = load_expert(cell.record, tmp_path / "delta")
    assert json.loads(cell.record.read_text())["key"] == expert.record["key"]
    assert {name: tensor.shape[0] for name, tensor in expert.head.items()} == {"weight": 10, "bias": 10}
    assert {type(update) for update in expert.delta.values()} == {LowRank}
