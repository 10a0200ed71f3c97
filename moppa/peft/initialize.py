"""Initial values of the two matrices of an adapter or of a low-rank update."""

import math
from collections.abc import Iterable

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
