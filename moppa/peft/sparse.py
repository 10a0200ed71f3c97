"""Updates of single weights, alone and together with a low-rank update of the same layer."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from moppa.peft.inject import ParametrizedLinear
from moppa.peft.low_rank import LowRankDelta
from moppa.peft.sensitivity import Members


class SparseDelta(nn.Module):
    """W' = W + values at some positions of W, zero at the start."""

    def __init__(self, index: Int[Tensor, " positions"], like: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index, persistent=False)
        self.values = nn.Parameter(like.new_zeros(len(index)))

    def forward(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (
            weight.flatten().to(self.values.dtype).index_add(0, self.get_buffer("index"), self.values).view_as(weight)
        )


def sparse_deltas(layer: nn.Module, members: Members) -> dict[str, nn.Module]:
    """Returns a delta for each tensor of a layer in which single weights are tuned, by the tensor's name."""
    positions: dict[str, list[Tensor]] = {}
    for piece, index in members:
        if len(single := piece.positions(index)):
            positions.setdefault(piece.tensor, []).append(single)
    return {name: SparseDelta(torch.cat(single), like=getattr(layer, name)) for name, single in positions.items()}


def order_statistic(values: Float[Tensor, "..."], q: float) -> Float[Tensor, ""]:
    """Returns the value below which a fraction q lies, without interpolation and for any number of values.

    The values above it are those above `torch.quantile(values, q)`, which refuses more than 16 million.
    """
    return values.flatten().topk(values.numel() - int(q * (values.numel() - 1)), sorted=False).values.amin()


class SparseLowRankDelta(nn.Module):
    """W' = W + values at some positions, if any, + B A. The layer's bias may have a delta of its own."""

    def __init__(self, low_rank: LowRankDelta, sparse: nn.Module) -> None:
        super().__init__()
        self.sparse, self.low_rank = sparse, low_rank

    def forward(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        return self.low_rank(self.sparse(weight))

    def layer_output(self, layer: ParametrizedLinear, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Returns W' x + b, with dropout of what A reads in training."""
        weight = self.sparse(layer.pretrained("weight"))
        return F.linear(x, weight, layer.bias) + self.low_rank.update_output(x)  # type: ignore[attr-defined]
