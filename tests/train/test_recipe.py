"""Which tensors the weight decay of a recipe applies to."""

import pytest
import torch
from torch import nn

from moppa.utils.config import instantiate
from tests.conftest import config_of


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("decay_1d", [True, False])
def test_weight_decay_of_biases_can_be_switched_off(optimizer, decay_1d):
    overrides = ["train.lr=0.1", "train.weight_decay=0.5", f"train.optimizer={optimizer}", f"train.decay_1d={decay_1d}"]
    recipe = instantiate(config_of("task=eurosat", *overrides), "train")
    matrix, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    for parameter in (matrix, bias):
        parameter.grad = torch.zeros_like(parameter)
    recipe.create_optimizer([bias, matrix], capturable=False).step()
    assert torch.equal(matrix.detach(), torch.full((2, 2), 0.95))
    assert torch.equal(bias.detach(), torch.full((2,), 0.95 if decay_1d else 1.0))
