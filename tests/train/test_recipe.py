"""The optimizer of a recipe: which tensors it decays, and that it is torch's."""

import pytest
import torch
from torch import nn

from moppa.utils import optimizers
from moppa.utils.config import instantiate
from tests.conftest import config_of
from tests.python_process import run_python


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


@pytest.mark.parametrize(
    ("name", "settings"),
    [("AdamW", {"fused": True, "weight_decay": 0.1}), ("SGD", {"momentum": 0.9}), ("LBFGS", {"max_iter": 3})],
)
def test_an_optimizer_takes_the_steps_of_torchs(name, settings):
    results = []
    for module in (optimizers, torch.optim):
        parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = getattr(module, name)([parameter], lr=0.1, **settings)

        def loss(parameter=parameter, optimizer=optimizer):
            optimizer.zero_grad()
            value = parameter.square().sum()
            value.backward()
            return value

        for _ in range(3):
            loss()
            optimizer.step(loss)
            optimizer.load_state_dict(optimizer.state_dict())
        results.append(parameter.detach())
    assert torch.equal(*results)


PROGRAM = """
import sys
import run
from tests.models import batch, model_with
from moppa.utils.optimizers import LBFGS, AdamW

model, (images, labels) = model_with("lora"), batch()
for optimizer in (AdamW(model.parameters()), LBFGS(model.parameters(), max_iter=1)):
    optimizer.zero_grad()
    optimizer.step(lambda: model(images).square().sum())
assert "timm" in sys.modules
assert not {"torch._dynamo", "wandb"} & sys.modules.keys(), "something imports the compiler or wandb"
"""


@pytest.mark.slow
def test_a_process_that_trains_starts_without_the_compiler():
    done = run_python("-c", PROGRAM)
    assert done.returncode == 0, done.stderr[-2000:]
