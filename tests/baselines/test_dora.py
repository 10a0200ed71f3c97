"""DoRA against HF peft, and its magnitudes."""

import pytest
import torch

from baselines import dora
from moppa.utils.errors import SettingError
from tests.baselines.low_rank import (
    TARGETS,
    assert_close,
    assert_equal_to_peft,
    assert_k_is_unchanged,
    attached,
    perturbed,
    vit,
)


@pytest.mark.parametrize("targets", [("q", "v"), TARGETS], ids=["q and v", "all"])
def test_dora_is_that_of_peft(targets):
    assert_equal_to_peft(dora, targets, use_dora=True)


def test_k_stays_bit_for_bit():
    assert_k_is_unchanged(dora)


def test_the_initial_weight_is_exact_in_every_precision():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        stock, model = vit().to(dtype), attached(dora, rank=2, alpha=2, targets=TARGETS).to(dtype)
        for before, after in zip(stock.blocks, model.blocks, strict=True):
            assert torch.equal(before.attn.qkv.weight, after.attn.qkv.weight)
            assert torch.equal(before.mlp.fc2.weight, after.mlp.fc2.weight)


def test_the_magnitudes_are_the_norms():
    model = perturbed(attached(dora, rank=2, alpha=2, targets=["v"]))
    stock = vit()
    for before, after in zip(stock.blocks, model.blocks, strict=True):
        [delta] = after.attn.qkv.parametrizations.weight
        start = before.attn.qkv.weight[2 * 64 :].norm(dim=1)
        assert_close(after.attn.qkv.weight[2 * 64 :].norm(dim=1), (start + delta.magnitude[0].flatten()).abs())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": 0}, r"^rank=0: .*at least 1"),
        ({"rank": 65}, r"^rank=65 .*64"),
        ({"alpha": -1}, r"^alpha=-1: .*above 0"),
        ({"targets": ["w"]}, r"^targets='w'.*q, k, v, proj, fc1, fc2"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(SettingError, match=message):
        attached(dora, **{"rank": 2, "alpha": 2, "targets": ["q"], **setting})
