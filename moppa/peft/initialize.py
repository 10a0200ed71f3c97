"""Initial values: of the two matrices of an adapter or of a low-rank update, and of whole modules."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# the first two leave Up at zero, so that training starts from the frozen model; the others draw it too
INITS = ("kaiming_uniform", "truncated_normal", "normal", "xavier_uniform")


def initialize(downs: Iterable[Tensor], ups: Iterable[Tensor], init: str, generator: torch.Generator | None) -> None:
    """Draws every Down, and every Up as well for `normal` and `xavier_uniform`; else Up stays as it is.

    `kaiming_uniform` is that of LoRA and AdaptFormer, `truncated_normal` that of Houlsby's adapters. `normal` has a
    standard deviation of 0.02, to which timm's models reset every linear layer that they contain.
    """
    for matrix in [*downs, *ups] if init in ("normal", "xavier_uniform") else downs:
        if init == "kaiming_uniform":
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5), generator=generator)
        elif init == "truncated_normal":
            nn.init.trunc_normal_(matrix, std=0.01, a=-0.02, b=0.02, generator=generator)
        elif init == "normal":
            nn.init.normal_(matrix, std=0.02, generator=generator)
        else:
            nn.init.xavier_uniform_(matrix, generator=generator)


def draw_module(make: Callable[..., nn.Module], *args: Any, generator: torch.Generator | None, **settings: Any) -> Any:
    """Returns a module whose matrices are drawn with a standard deviation of 0.02; its biases are 0, its gains 1.

    What `make` draws itself is replaced, and torch's global generator stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        module = make(*args, **settings)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
        else:
            nn.init.constant_(parameter, float(name.endswith("weight")))
    return module
