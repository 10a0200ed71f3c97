"""The optimizer of a recipe: which tensors it decays, and that it is torch's."""

import csv

import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from moppa.backbone.preprocess import Preprocess
from moppa.train.batches import training_batches
from moppa.train.step import train_step
from moppa.utils import optimizers
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.flatten import flatten
from moppa.utils.for_task import recipe_settings
from tests.conftest import CONFIGS, config_of
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


RECIPES = [path.stem for path in (CONFIGS / "train").glob("*.yaml") if path.stem not in ("common", "mini", "vtab_full")]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_a_published_row_and_composes_for_every_task(name):
    with (CONFIGS.parent / "results" / "published.csv").open(newline="") as file:
        rows = {row["row"] for row in csv.DictReader(file)}
    tasks = [path.stem for path in (CONFIGS / "task").glob("*.yaml")]
    settings = {task: recipe_settings(CONFIGS / "train" / f"{name}.yaml", task) for task in tasks}
    assert all(settings.values())
    assert {of_task["train.published"] for of_task in settings.values()} <= rows
    assert {of_task["train.recipe"] for of_task in settings.values()} == {name}
    config = config_of("task=svhn", f"train={name}")
    composed = flatten(OmegaConf.to_container(config, resolve=True))
    assert {key: composed[key] for key in settings["svhn"] if key != "task.name"} == {
        key: value for key, value in settings["svhn"].items() if key != "task.name"
    }
    instantiate(config, "train")


def test_values_of_a_task():
    config = config_of("task=clevr_dist", "train=ssf")
    assert (config.train.lr, config.train.weight_decay, config.train.drop_path) == (5e-2, 5e-2, 0.1)
    config = config_of("task=sun397", "train=osu_lora")
    assert (config.method.attach.rank, config.method.attach.alpha, config.train.lr) == (1, 1, 1e-2)
    with pytest.raises(OmegaConfBaseException, match="task=digits: this recipe has values for caltech101"):
        config_of("task=mini/digits", "train=ssf").train.lr  # noqa: B018


def test_a_recipe_replaces_the_normalization_and_leaves_out_the_last_batch():
    overrides = ["train.normalization=half", "train.drop_last=true", "train.batch_size=64"]
    recipe = instantiate(config_of("task=eurosat", *overrides), "train")
    preprocess = Preprocess(size=8, mean=(0.1,) * 3, std=(0.2,) * 3, interpolation="bicubic", pool="token")
    white = recipe.preprocess(preprocess).normalize(torch.full((1, 8, 8, 3), 255, dtype=torch.uint8))
    assert torch.equal(white, torch.ones(1, 3, 8, 8))
    assert (recipe.steps_per_epoch(1000), recipe.steps_per_epoch(64)) == (15, 1)
    assert [len(batch) for _, batch in training_batches(130, recipe, seed=0, start=0)][:3] == [64, 64, 64]
    with pytest.raises(UserError, match=r"train\.batch_size=64 is above the 10 images"):
        recipe.steps_per_epoch(10)


def test_label_smoothing_and_clipping_are_those_of_torch():
    def step(**settings):
        layer = nn.Linear(3, 4)
        nn.init.constant_(layer.weight, 0.5)
        nn.init.constant_(layer.bias, 0.0)
        optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
        images, labels = torch.arange(6.0).view(2, 3), torch.tensor([1, 3])
        loss = train_step(layer, optimizer, images, labels, lambda: 0.0, lambda: None, precision="float32", **settings)
        return loss, torch.cat([(0.5 - layer.weight.detach()).flatten(), layer.bias.detach()])

    plain_loss, plain = step()
    assert plain.norm() > 1
    _, clipped = step(clip_norm=0.1)
    torch.testing.assert_close(clipped, plain * 0.1 / plain.norm())
    smoothed_loss, smoothed = step(label_smoothing=0.5)
    torch.testing.assert_close(smoothed_loss, plain_loss)  # the logits are equal, so that all targets cost the same
    torch.testing.assert_close(smoothed, 0.5 * plain)
