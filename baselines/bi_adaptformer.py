"""Bi-AdaptFormer: an AdaptFormer whose weights are one bit each.

Jie, Wang and Deng, "Revisiting the Parameter Efficiency of Adapters from the Perspective of Precision Redundancy",
ICCV 2023, arXiv 2307.16867.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.binary import binarize, latent_factors
from moppa.peft.blocks import find_transformer_blocks
from moppa.peft.bottleneck import add_beside_mlp
from moppa.utils import validate


class BinaryAdapter(nn.Module):
    """A(z) = s Up relu(Down z), with Up and Down binary: no biases."""

    def __init__(
        self, dim: int, *, bottleneck: int, scale: float, dropout: float, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.scale, self.dropout = scale, dropout
        self.down, self.up = latent_factors(dim, bottleneck, dim, generator)

    def forward(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        hidden = F.dropout(F.relu(F.linear(z, binarize(self.down))), self.dropout, self.training)
        return self.scale * F.linear(hidden, binarize(self.up))


def attach(
    model: nn.Module, *, bottleneck: int, scale: float, dropout: float, reads: str, generator: torch.Generator | None
) -> None:
    """Adds a binary adapter beside the MLP of every block; it reads the tokens before or after the norm (`reads`)."""
    validate.integer("bottleneck", bottleneck, minimum=1)
    validate.number("scale", scale, minimum=0, exclusive_minimum=True)
    validate.number("dropout", dropout, minimum=0, maximum=0.9)
    for block in find_transformer_blocks(model, method="Bi-AdaptFormer"):
        adapter = BinaryAdapter(block.dim, bottleneck=bottleneck, scale=scale, dropout=dropout, generator=generator)
        add_beside_mlp(block.unwrapped, adapter, reads=reads)
