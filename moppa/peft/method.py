"""Attaching a method to a model: the one place where the two meet."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Examples = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def attach_method(
    model: nn.Module, method: Callable[..., Any], *, generator: torch.Generator | None, examples: Examples
) -> nn.Module:
    """Attaches a method to a frozen model in place, and returns the model.

    Args:
        model: a frozen backbone with a trainable head.
        method: called with the model, and with those of the following that its signature has.
        generator: a CPU generator for the method's initial values.
        examples: returns batches (images, labels) of the training split, for methods that read images before training.
    """
    supported = inspect.signature(method).parameters
    arguments = {"generator": generator, "examples": examples}
    method(model, **{name: value for name, value in arguments.items() if name in supported})
    return model
