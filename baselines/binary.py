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

from moppa.peft.blocks import find_transformer_blocks
from moppa.peft.inject import parametrize_weights, wrap_module
from moppa.peft.low_rank import LowRankDelta, TargetLinear, target_linears
from moppa.utils import validate

# The two levels with the least absolute error on a standard normal weight: the medians of its halves.
LEVEL = NormalDist().inv_cdf(0.75)


def binarized(latent: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """mean + std q, q = +-LEVEL by the sign of the standardized latent weight; its gradient passes the sign unchanged.

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
        hidden = F.dropout(F.relu(F.linear(z, binarized(self.down))), self.dropout, self.training)
        return self.held(z, **kwargs) + self.scale * F.linear(hidden, binarized(self.up))


class BinaryDelta(LowRankDelta):
    """W' = W + s Up Down, both binary, for each adapted one of the matrices that are stacked in W."""

    def __init__(self, adapted: TargetLinear, *, rank: int, scale: float, generator: torch.Generator | None) -> None:
        super().__init__()
        d_out, d_in = adapted.part_shape
        self.parts, self.scale = adapted.parts, scale
        pairs = [factors(d_in, rank, d_out, generator) for _ in range(sum(self.parts))]
        self.down, self.up = (nn.ParameterList(matrices) for matrices in zip(*pairs, strict=True))

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Down and s Up of each adapted part, binary."""
        return [binarized(down) for down in self.down], [self.scale * binarized(up) for up in self.up]


def attach_adaptformer(
    model: nn.Module, *, bottleneck: int, scale: float, dropout: float, generator: torch.Generator | None
) -> None:
    """Gives every block of a transformer a binary adapter beside its MLP, which reads what the MLP reads.

    The authors' adapter reads the tokens before the norm; ours reads them after it, as AdaptFormer's equation does.
    """
    validate.integer("method.attach.bottleneck", bottleneck, minimum=1)
    validate.number("method.attach.scale", scale, minimum=0, exclusive_minimum=True)
    validate.number("method.attach.dropout", dropout, minimum=0, maximum=0.9)
    for place in find_transformer_blocks(model, method="Bi-AdaptFormer"):
        adapter = partial(
            BinaryAdapter, dim=place.dim, bottleneck=bottleneck, scale=scale, dropout=dropout, generator=generator
        )
        wrap_module(place.module, "mlp", adapter)


def attach_lora(
    model: nn.Module, *, rank: int, scale: float, targets: Sequence[str], generator: torch.Generator | None
) -> None:
    """Gives each target (q, k, v, proj, fc1, fc2) of every block a binary update of rank `rank`.

    The rank may exceed the weight's: more binary terms add up to more levels. The authors' code has dropout between
    the two factors, which a weight has no place for.
    """
    validate.integer("method.attach.rank", rank, minimum=1)
    validate.number("method.attach.scale", scale, minimum=0, exclusive_minimum=True)
    for adapted in target_linears(model, targets, method="Bi-LoRA"):
        parametrize_weights(adapted.layer, weight=BinaryDelta(adapted, rank=rank, scale=scale, generator=generator))
