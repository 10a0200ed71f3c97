"""Bi-AdaptFormer and Bi-LoRA: adapters whose weights are one bit each.

Jie, Wang and Deng, "Revisiting the Parameter Efficiency of Adapters from the Perspective of Precision Redundancy",
ICCV 2023, arXiv 2307.16867.
"""

import math
from collections.abc import Sequence
from functools import partial
from statistics import NormalDist
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa import check
from moppa.linears import Adapted, LowRankDelta, linears_of
from moppa.places import transformer_places
from moppa.touch import hold, reweight

# The two levels with the least absolute error on a standard normal weight: the medians of its halves.
LEVEL = NormalDist().inv_cdf(0.75)


def binarised(latent: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """mean + std q, q = +-LEVEL by the sign of the standardised latent weight; its gradient passes the sign unchanged.

    Equal weights have no sign and stay what they are: zero latents are the zero matrix, one step from being binary.
    Written as the latent and what rounding adds, because (w - mean) / std has no gradient where the std is zero.
    """
    std, mean = torch.std_mean(latent)
    standard = (latent - mean) / std.clamp(min=torch.finfo(latent.dtype).tiny)
    return latent + std * (LEVEL * standard.sign() - standard).detach()


def factors(d_in: int, width: int, d_out: int, generator: torch.Generator | None) -> tuple[nn.Parameter, nn.Parameter]:
    """Down (width, d_in), drawn, and Up (d_out, width), as latent weights.

    Up is zero, so that the first step starts from the frozen model; the authors draw it within 0.002 of zero.
    """
    down = nn.Parameter(torch.empty(width, d_in))
    nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)  # as in the authors' code
    return down, nn.Parameter(torch.zeros(d_out, width))


class BinaryAdapter(nn.Module):
    """f(z) + s Up relu(Down z), where f is the MLP, z its input, and Up and Down are binary: no biases."""

    def __init__(
        self,
        held: nn.Module,
        *,
        dim: int,
        bottleneck: int,
        scale: float,
        dropout: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.held, self.scale, self.dropout = held, scale, dropout
        self.down, self.up = factors(dim, bottleneck, dim, generator)

    def forward(self, z: Float[Tensor, "*batch dim"], **kwargs: Any) -> Float[Tensor, "*batch dim"]:
        hidden = F.dropout(F.relu(F.linear(z, binarised(self.down))), self.dropout, self.training)
        return self.held(z, **kwargs) + self.scale * F.linear(hidden, binarised(self.up))


class BinaryDelta(LowRankDelta):
    """W' = W + s Up Down, both binary, for each adapted one of the matrices that are stacked in W."""

    def __init__(self, adapted: Adapted, *, rank: int, scale: float, generator: torch.Generator | None) -> None:
        super().__init__()
        d_out, d_in = adapted.part_shape
        self.parts, self.scale = adapted.parts, scale
        pairs = [factors(d_in, rank, d_out, generator) for _ in range(sum(self.parts))]
        self.down, self.up = (nn.ParameterList(matrices) for matrices in zip(*pairs, strict=True))

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Down and s Up of each adapted part, binary."""
        return [binarised(down) for down in self.down], [self.scale * binarised(up) for up in self.up]


def attach_adaptformer(
    model: nn.Module, *, bottleneck: int, scale: float, dropout: float, generator: torch.Generator | None
) -> None:
    """Gives every block of a transformer a binary adapter beside its MLP, which reads what the MLP reads.

    The authors' adapter reads the tokens before the norm; ours reads them after it, as AdaptFormer's equation does.
    """
    check.whole("method.attach.bottleneck", bottleneck, least=1)
    check.number("method.attach.scale", scale, low=0, above=True)
    check.number("method.attach.dropout", dropout, low=0, high=0.9)
    for place in transformer_places(model, method="Bi-AdaptFormer"):
        adapter = partial(
            BinaryAdapter, dim=place.dim, bottleneck=bottleneck, scale=scale, dropout=dropout, generator=generator
        )
        hold(place.block, "mlp", adapter)


def attach_lora(
    model: nn.Module, *, rank: int, scale: float, targets: Sequence[str], generator: torch.Generator | None
) -> None:
    """Gives each target (q, k, v, proj, fc1, fc2) of every block a binary update of rank `rank`.

    The rank may exceed the weight's: more binary terms add up to more levels. The authors' code has dropout between
    the two factors, which a weight has no place for.
    """
    check.whole("method.attach.rank", rank, least=1)
    check.number("method.attach.scale", scale, low=0, above=True)
    for adapted in linears_of(model, targets, method="Bi-LoRA"):
        reweight(adapted.layer, weight=BinaryDelta(adapted, rank=rank, scale=scale, generator=generator))
