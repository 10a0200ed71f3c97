"""The trained constants of the priors: positive numbers per channel, or per frequency and channel."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Constant = Float[Tensor, " channels"] | Float[Tensor, "height width channels"]


class FrequencyEmbedding(nn.Module):
    """A vector for each frequency of a grid, shared by all blocks. On another grid it is interpolated.

    Source: vHeat, arXiv 2405.16555.
    """

    def __init__(self, grid: tuple[int, int], dim: int, *, generator: torch.Generator | None) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.empty(*grid, dim))
        nn.init.trunc_normal_(self.values, std=0.02, generator=generator)

    def forward(self, grid: tuple[int, int]) -> Float[Tensor, "height width dim"]:
        """Returns the embedding on a grid, from the lowest to the highest frequency of both."""
        if grid == self.values.shape[:2]:
            return self.values
        channels_first = self.values.permute(2, 0, 1)[None]
        return F.interpolate(channels_first, grid, mode="bilinear", align_corners=True)[0].permute(1, 2, 0)


class PositiveConstant(nn.Module):
    """softplus(softplus^-1(start) + rate * offset), one offset per channel; with an embedding e, W e + offset.

    The step of Adam does not depend on the scale of a parameter, so `rate` sets how fast the constant moves relative to
    the projections.
    """

    def __init__(
        self,
        width: int,
        *,
        start: float,
        rate: float,
        embedding: FrequencyEmbedding | None,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.start, self.rate, self.embedding = math.log(math.expm1(start)), rate, embedding
        self.offset = nn.Parameter(torch.zeros(width))
        self.weight = None if embedding is None else nn.Parameter(torch.empty(width, embedding.values.shape[-1]))
        if self.weight is not None:
            nn.init.trunc_normal_(self.weight, std=0.02, generator=generator)

    def forward(self, grid: tuple[int, int]) -> Constant:
        """Returns the constant on a grid."""
        offset = self.offset
        if self.embedding is not None and self.weight is not None:
            offset = F.linear(self.embedding(grid), self.weight, offset)
        return F.softplus(self.start + self.rate * offset)
