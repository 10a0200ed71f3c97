"""Bi-AdaptFormer: an AdaptFormer whose weights are one bit each.

Jie, Wang and Deng, "Revisiting the Parameter Efficiency of Adapters from the Perspective of Precision Redundancy",
ICCV 2023, arXiv 2307.16867.
"""

import math
from functools import partial
from statistics import NormalDist
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.blocks import find_transformer_blocks
from moppa.peft.inject import wrap_module
from moppa.utils import validate

# the two levels with the least absolute error on a standard normal weight: the medians of its halves
LEVEL = NormalDist().inv_cdf(0.75)


def binarize(latent: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Returns mean + std q, q = +-LEVEL by the sign of the standardized weight; the gradient ignores the rounding.

    Equal weights have no sign and stay as they are: zero latents give the zero matrix, and are binary after one step.
    It is written as the latent plus what rounding adds, since (w - mean) / std has no gradient if the std is zero.
    """
    std, mean = torch.std_mean(latent)
    standardized = (latent - mean) / std.clamp(min=torch.finfo(latent.dtype).tiny)
    return latent + std * (LEVEL * standardized.sign() - standardized).detach()


def latent_factors(
    d_in: int, width: int, d_out: int, generator: torch.Generator | None
) -> tuple[nn.Parameter, nn.Parameter]:
    """Returns the latent weights Down (width, d_in), drawn, and Up (d_out, width), zero.

    With zeros training starts from the frozen model; the authors draw Up within 0.002 of zero.
    """
    down = nn.Parameter(torch.empty(width, d_in))
    nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)  # as in the authors' code
    return down, nn.Parameter(torch.zeros(d_out, width))


class BinaryAdapter(nn.Module):
    """f(z) + s Up relu(Down z), with f the MLP, z its input, and Up and Down binary: no biases."""

    def __init__(
        self,
        inner: nn.Module,
        *,
        dim: int,
        bottleneck: int,
        scale: float,
        dropout: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.inner, self.scale, self.dropout = inner, scale, dropout
        self.down, self.up = latent_factors(dim, bottleneck, dim, generator)

    def forward(self, z: Float[Tensor, "*batch dim"], **kwargs: Any) -> Float[Tensor, "*batch dim"]:
        hidden = F.dropout(F.relu(F.linear(z, binarize(self.down))), self.dropout, self.training)
        return self.inner(z, **kwargs) + self.scale * F.linear(hidden, binarize(self.up))


def attach(
    model: nn.Module, *, bottleneck: int, scale: float, dropout: float, generator: torch.Generator | None
) -> None:
    """Adds a binary adapter beside the MLP of every block of a transformer.

    The authors' adapter reads the tokens before the norm; this one reads the MLP's input, as AdaptFormer's equation.
    """
    validate.integer("bottleneck", bottleneck, minimum=1)
    validate.number("scale", scale, minimum=0, exclusive_minimum=True)
    validate.number("dropout", dropout, minimum=0, maximum=0.9)
    for block in find_transformer_blocks(model, method="Bi-AdaptFormer"):
        adapter = partial(
            BinaryAdapter, dim=block.dim, bottleneck=bottleneck, scale=scale, dropout=dropout, generator=generator
        )
        wrap_module(block.module, "mlp", adapter)
