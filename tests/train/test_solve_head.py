"""A method whose YAML says `fit: lbfgs` has its head solved for; the trainer knows no method by name."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from moppa.data.split import Split
from moppa.record.schema import read_record
from moppa.record.verify import verify_records
from moppa.train.loggers import NoLogger
from moppa.train.solve_head import solve_head
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import config_of


def solved_head(l2=1e-3, **steps):
    """Returns the weight and the loss of a head that was solved for on generated features."""
    random = np.random.default_rng(0)
    split = Split(images=random.normal(size=(60, 8)).astype(np.float32), labels=np.arange(60) % 3, digest="generated")
    model: Any = timm.create_model("test_vit", num_classes=3).requires_grad_(False)
    model.head = torch.nn.Linear(8, 3)
    recipe = replace(instantiate(config_of("task=cifar100"), "train"), weight_decay=l2, **steps)
    result = solve_head(model, split, recipe=recipe, logger=NoLogger(), on_epoch=lambda *_: {})
    return model.head.weight.detach(), result.curve[0]["loss"]


def test_the_weight_decay_is_the_penalty_and_nothing_else_of_the_recipe_matters():
    weight, loss = solved_head()
    same_weight, _ = solved_head(epochs=3, lr=0.1, batch_size=8, optimizer="sgd")
    small_weight, larger_loss = solved_head(l2=0.1)
    assert torch.equal(weight, same_weight)
    assert small_weight.norm() < weight.norm()
    assert larger_loss > loss


def test_seeds_are_equal_which_is_no_copy_and_features_need_not_be_kept(toy, tmp_path):
    cells = [
        run_cell(config_of(*toy, "method=linear", f"seed={seed}", f"run.keep_features={keep}"))
        for seed, keep in ((0, "true"), (1, "false"))
    ]
    (first, second), heads = ([function(cell) for cell in cells] for function in (record_of, head_of))
    assert first["key"] == second["key"]
    assert first["correct"] == second["correct"]
    assert first["curve"] == second["curve"]
    assert len(first["curve"]) == 1
    assert heads[0].keys() == {"head.weight", "head.bias"}
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert verify_records(tmp_path / "results").findings == []


def record_of(cell):
    return read_record(cell.record)


def head_of(cell):
    return safetensors.torch.load_file(cell.trained)


def test_a_head_that_does_not_converge_names_the_penalty(toy, monkeypatch):
    monkeypatch.setattr("moppa.utils.logistic.MAX_ITERATIONS", 1)
    with pytest.raises(UserError, match=r"not converged after 1 iterations .*raise train\.weight_decay="):
        run_cell(config_of(*toy, "method=linear"))
