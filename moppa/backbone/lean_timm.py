"""Imports timm without wandb and torch.compile, which parts of it import that are not used here: that takes seconds."""

import functools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest import mock

import torch
import torch.compiler

COMPILER = "torch._dynamo.utils"
disable_compiler = torch.compiler.disable


def is_compile_supported(device_type: str) -> bool:
    """Returns what torch's function of this name returns; torchvision imports it from `COMPILER`."""
    return import_module(COMPILER).is_compile_supported(device_type)


def disable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that torch.compile does not compile, but asks torch.compile only when it is called."""

    @functools.wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        return disable_compiler(function)(*arguments, **settings)

    return call


@contextmanager
def without_wandb_and_compiler() -> Iterator[None]:
    """Lets modules that are imported in the context do without; those that are imported already stay."""
    absent: dict[str, Any] = {} if "wandb" in sys.modules else {"wandb": None}  # timm takes it as not installed
    if "torch._dynamo" in sys.modules:
        disable_in_timm = disable_compiler
    else:
        absent[COMPILER] = types.SimpleNamespace(is_compile_supported=is_compile_supported)
        disable_in_timm = disable
    with mock.patch.object(torch.compiler, "disable", disable_in_timm):
        sys.modules.update(absent)
        try:
            yield
        finally:
            for name in absent:
                del sys.modules[name]


if "timm" not in sys.modules:
    try:
        with without_wandb_and_compiler():
            import timm
    except ImportError:  # another version of timm or torchvision that needs more of torch.compile
        import timm  # noqa: F401
