"""Where noise can act on what a method adds to the features of a frozen model."""

from typing import Any

from torch import nn

from moppa.peft.inject import ParametrizedLinear


def noisy_modules(block: nn.Module) -> list[nn.Module]:
    """Returns the modules of a block that add to its features: adapted linear layers, and those with a child `noise`.

    The child is an identity that is applied to what such a module adds, as in an adapter.
    """
    return [part for part in block.modules() if isinstance(part, ParametrizedLinear) or has_noise(part)]


def has_noise(module: nn.Module) -> bool:
    """Returns whether a module applies a child `noise` to what it adds."""
    return isinstance(getattr(module, "noise", None), nn.Module)


def set_noise(module: Any, noise: nn.Module | None) -> None:
    """Applies `noise` to what a module adds, or nothing."""
    if isinstance(module, ParametrizedLinear):
        module.set_noise(noise)
    else:
        module.noise = nn.Identity() if noise is None else noise
