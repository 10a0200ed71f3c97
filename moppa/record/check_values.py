"""Checks every value of a config before anything is downloaded or read."""

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.overrides import TorchFunctionMode

from moppa.backbone.efficient_blocks import SKIPPABLE
from moppa.backbone.model import Backbone
from moppa.peft.method import attach_method, ignore_records
from moppa.record.schema import PYTHON_PATH
from moppa.train.augmentation import worker_count
from moppa.train.step import step_mode
from moppa.utils import validate
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.gpu import device_type, precision_name
from moppa.utils.seeds import generator_for

READS_FILES = ("tfds", "noah", "folder")  # the names of sources
GROUPS = ("backbone", "task", "data", "train", "protocol", "logger")


class NeedsImagesError(Exception):
    """A method asks for training images, so its attachment cannot be tried without data."""


def check_values(config: DictConfig) -> None:
    """Raises `UserError` if a setting is unknown or has a bad value.

    Many settings of a method depend on the backbone: a rank above its width, a layer that it lacks. If the weights have
    to be downloaded, the method is therefore attached to a model without them first.
    """
    validate.integer("seed", config.seed, minimum=0)
    validate.one_of("hparams", config.hparams, ("given", "best"))
    check_run(config.run)
    check_source(config)
    for group in GROUPS:
        instantiate(config, group)
    instantiate(config, "method.attach", _partial_=True)
    if config.backbone.weights is None:
        backbone, method = (OmegaConf.to_container(config[group], resolve=True) for group in ("backbone", "method"))
        try_to_attach(json.dumps(backbone, sort_keys=True), json.dumps(method, sort_keys=True))


def check_run(run: Any) -> None:
    """Raises `SettingError` if a value of `run` is wrong."""
    device = torch.device(device_type(run.device))
    precision_name(run.precision, device.type)
    step_mode(run.step, device)
    validate.integer("run.checkpoint_epochs", run.checkpoint_epochs, minimum=1)
    if run.eval_batch is not None:
        validate.integer("run.eval_batch", run.eval_batch, minimum=1)
    worker_count(run.augment_workers, device.type)
    for name in run.skip_unused:
        validate.one_of("run.skip_unused", name, SKIPPABLE)
    for name in ("deterministic", "keep_memory", "keep_features", "keep_trained", "keep_logits"):
        validate.boolean(f"run.{name}", run[name])


def check_source(config: Any) -> None:
    """Raises `UserError` if a task whose images are computed by a function is to be read from a data set or files."""
    name, builder = config.data.get("name"), config.task.get("builder")
    if name in READS_FILES and isinstance(builder, str) and PYTHON_PATH.fullmatch(builder):
        raise UserError(
            f"data={name}: the images of task {config.task.name} are computed, not read; remove data={name}"
        )


@lru_cache
def try_to_attach(backbone: str, method: str) -> None:
    """Raises `UserError` if a method cannot be attached to a backbone, both given as JSON.

    The model's weights are not initialized, so that this takes a fraction of a second.
    """
    config: Any = OmegaConf.create({"backbone": json.loads(backbone), "method": json.loads(method)})
    attach = instantiate(config, "method.attach", _partial_=True)
    try:
        attach_method(
            empty_model(instantiate(config, "backbone")),
            attach,
            generator=generator_for(0, "method"),
            examples=no_examples,
            finished=ignore_records,
        )
    except UserError:
        raise
    except Exception:  # it needs images, or real weights: the real attachment will tell
        return


def empty_model(backbone: Backbone) -> Any:
    """Returns a frozen model with a head of two classes on the CPU, whose weights are zero."""
    with torch.device("meta"), SkipInitialization():
        model: Any = backbone.create_model(drop_path=0.0)
        model.reset_classifier(2)
    model.to_empty(device="cpu").requires_grad_(False)
    for tensor in (*model.parameters(), *model.buffers()):  # a method may decompose a weight, which must be finite
        tensor.zero_()
    return model


class SkipInitialization(TorchFunctionMode):
    """Skips the functions that draw initial values: tensors without data need none, but take a second to learn it."""

    NAMES = ("uniform_", "normal_", "trunc_normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.NAMES:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def no_examples() -> Iterable[tuple[Tensor, Tensor]]:
    """Raises `NeedsImagesError`."""
    raise NeedsImagesError
