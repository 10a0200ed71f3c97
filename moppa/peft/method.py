"""Attaching a method to a model: the one place where the two meet."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moppa.peft.collect import count_backbone
from moppa.utils.errors import SettingError

Examples = Callable[[], Iterable[tuple[Tensor, Tensor]]]
FinishedTensors = Callable[[Sequence[str]], Mapping[str, Mapping[str, Tensor]]]  # names of records -> their tensors


def refuse_records(records: Sequence[str]) -> Mapping[str, Mapping[str, Tensor]]:
    """Returns nothing for no records.

    Raises:
        SettingError: if there are some.
    """
    if records:
        raise SettingError("records", f"={list(records)}: only `moppa run` reads finished cells; set records=[]")
    return {}


def ignore_records(_: Sequence[str]) -> Mapping[str, Mapping[str, Tensor]]:
    """Returns nothing, for a model whose parameters are counted and not used."""
    return {}


def attach_method(
    model: nn.Module,
    method: Callable[..., Any],
    *,
    generator: torch.Generator | None,
    examples: Examples,
    finished: FinishedTensors = refuse_records,
) -> nn.Module:
    """Attaches a method to a frozen model in place, and returns the model.

    `backbone_params` of the model then holds the number of its pretrained parameters and of those that it keeps.

    Args:
        model: a frozen backbone with a trainable head.
        method: called with the model, and with those of the following that its signature has.
        generator: a CPU generator for the method's initial values.
        examples: returns batches (images, labels) of the training split, for methods that read images before training.
        finished: returns the trained tensors of finished cells, for methods that start from some.
    """
    supported = inspect.signature(method).parameters
    pretrained = list(model.parameters())
    arguments = {"generator": generator, "examples": examples, "finished": finished}
    method(model, **{name: value for name, value in arguments.items() if name in supported})
    model.backbone_params = count_backbone(model, pretrained)  # type: ignore[assignment]
    return model
