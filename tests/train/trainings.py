"""Short trainings of any method on a small model, whose losses, tensors and diagnostics are compared."""

from contextlib import ExitStack
from unittest import mock

import numpy as np
import torch

from moppa.backbone.efficient_blocks import skip_unused
from moppa.backbone.precision import to_precision
from moppa.data.split import Split
from moppa.peft.collect import trainable_parameters
from moppa.train import loop
from moppa.train.checkpoint import Checkpoint
from moppa.train.loggers import NoLogger
from moppa.train.recipe import Recipe
from moppa.utils.config import instantiate
from moppa.utils.gpu import precision_name
from tests.conftest import config_of
from tests.models import FAMILIES, model_with, with_drop_path
from tests.test_laws import facts_of

SPLIT = Split(
    images=np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8),
    labels=np.arange(10) % 10,
    digest="generated",
)


class StopsAfter(NoLogger):
    """Raises at the end of an epoch, before its checkpoint is written."""

    def __init__(self, step):
        self.step = step

    def log(self, values, *, step):
        if step == self.step:
            raise ConnectionError


def model_for(method, drop_path=0.3):
    """Returns a small ViT with a method, or a ConvNeXt if the method is defined on that alone."""
    backbone = "class token" if FAMILIES["class token"] in facts_of(method)[1] else "convnext"
    return with_drop_path(model_with(method, backbone), drop_path)


def train(
    method,
    folder,
    *,
    recorder=None,
    device="cpu",
    step="eager",
    precision="auto",
    drop_path=0.3,
    optimizer="adamw",
    epochs=2,
    logger=None,
    recipe=(),
):
    """Trains for epochs of two steps, the second with a smaller batch; returns losses, tensors and diagnostics.

    A `recorder` replaces CUDA graphs on a CPU. The optimizer is always one that a recording can read. `recipe` holds
    further overrides.
    """
    config = config_of(
        "task=eurosat", f"train.epochs={epochs}", "train.batch_size=6", f"train.optimizer={optimizer}", *recipe
    )
    model = skip_unused(model_for(method, drop_path).to(device), ["last_block_tokens", "gradient_copies"])
    to_precision(model, precision_name(precision, device))
    normalize = instantiate(config, "backbone").preprocess(model).normalize
    create, epoch_values, losses = Recipe.create_optimizer, loop.epoch_values, []

    def keep_losses(*arguments):
        losses.append(arguments[0].tolist())
        return epoch_values(*arguments)

    def create_capturable(recipe, parameters, *, capturable):
        return create(recipe, parameters, capturable=True)

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(loop, "epoch_values", keep_losses))
        patches.enter_context(mock.patch.object(Recipe, "create_optimizer", create_capturable))
        if recorder is not None:
            patches.enter_context(mock.patch.object(loop, "recorder_for", return_value=recorder))
            step = "auto"  # falls back to eager steps
        result = loop.train(
            model,
            SPLIT,
            recipe=instantiate(config, "train"),
            normalize=normalize,
            seed=0,
            checkpoint=Checkpoint(path=folder / "c.pt", epochs=1, code={}),
            logger=logger or NoLogger(),
            on_epoch=lambda *_: {},
            step=step,
            precision=precision,
        )
    assert torch.isfinite(torch.tensor(losses[-1])).all()
    trained = {name: tensor.tolist() for name, tensor in trainable_parameters(model).items()}
    return losses[-1], trained, {name: values.tolist() for name, values in result.diagnostics.items()}
