"""ARC: Dong et al., "Efficient Adaptation of Large Vision Transformer via Adapter Re-Composing", NeurIPS 2023.

arXiv 2310.06234.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from moppa.peft.affine import check_bias, prepend_affine
from moppa.peft.targets import target_linears
from moppa.utils import validate

POSITIONS = {"attn": ("q", "k", "v"), "mlp": ("fc1",)}  # the layers that read the adapter


class Projection(nn.Module):
    """P (r, d), which the adapters of all blocks share: it projects down, and transposed up."""

    def __init__(self, rank: int, dim: int, generator: Generator | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rank, dim))
        nn.init.xavier_uniform_(self.weight, generator=generator)  # as in the authors' code


class Adapter(nn.Module):
    """z + P^T (c * P z) + b, with c (r) and b (d) of one block, zero at the start.

    It is linear, so that it merges into the layer after it.
    """

    def __init__(self, projection: Projection) -> None:
        super().__init__()
        rank, dim = projection.weight.shape
        self.shared = projection
        self.scale, self.bias = nn.Parameter(torch.zeros(rank)), nn.Parameter(torch.zeros(dim))

    def forward(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        hidden = F.linear(z, self.scale[:, None] * self.shared.weight)
        return z + F.linear(hidden, self.shared.weight.T, self.bias)


def attach(model: nn.Module, *, rank: int, positions: Sequence[str], generator: Generator | None) -> None:
    """Inserts an adapter before attention and one before the MLP of every block (`positions`).

    There is one projection for all attentions and one for all MLPs; in a Swin one for each width. The authors' code
    also has dropout in the bottleneck, which a merged weight cannot have.
    """
    validate.integer("rank", rank, minimum=1)
    validate.subset("positions", positions, POSITIONS)
    projections: dict[tuple[str, int], Projection] = {}
    targets = [name for position in positions for name in POSITIONS[position]]
    for target in target_linears(model, targets, method="ARC"):
        layer = target.layer
        check_bias(layer, model, method="ARC")
        key = ("mlp" if target.name.startswith("fc1") else "attn", layer.in_features)
        if key not in projections:
            projections[key] = Projection(rank, layer.in_features, generator)
        prepend_affine(layer, Adapter(projections[key]))
