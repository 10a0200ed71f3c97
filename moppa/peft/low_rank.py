"""Low-rank updates of linear layers: the merged weight, and an output whose gradients stay as small as the factors."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.inject import ParametrizedLinear
from moppa.utils import validate
from moppa.utils.errors import SettingError, UserError
from moppa.utils.matmul import linear, weight_gradient


def check_rank(rank: int, shape: Sequence[int]) -> int:
    """Returns the rank if a d_out x d_in weight can have it."""
    validate.integer("rank", rank, minimum=1)
    if rank > min(shape):
        raise SettingError(
            "rank", f"={rank} is above {min(shape)}, the most for a {shape[0]} x {shape[1]} weight: choose a lower rank"
        )
    return rank


class LowRankDelta(nn.Module):
    """W' = g (W + B A) for each adapted matrix; a method defines the factors A and B, and may define the gains g.

    timm stacks q, k and v in one weight; `is_adapted` says which of the stacked matrices are adapted. `dropout` acts on
    what A reads, during training. It needs the activations, which a training step has and a merged weight has not.
    """

    is_adapted: tuple[bool, ...]
    dropout: float = 0.0

    def factors(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Returns A (r, d_in) and B (d_out, r) of each adapted matrix, scales included."""
        raise NotImplementedError

    def gains(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out 1"] | None:  # noqa: ARG002
        """Returns g, one gain per output of the layer, or None for 1."""
        return None

    def forward(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        if self.dropout and self.training and torch.is_grad_enabled():
            raise UserError("dropout acts on activations, and this layer trains through its weight: set dropout=0")
        updates = [up @ down for down, up in zip(*self.factors(), strict=True)]
        updated, gains = add_updates(weight, self.is_adapted, updates), self.gains(weight)
        return updated if gains is None else gains * updated

    def layer_output(self, layer: ParametrizedLinear, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Returns W' x + b without building the gradient of W'."""
        weight, bias = layer.pretrained("weight"), layer.pretrained("bias")
        if self.dropout and self.training:
            return F.linear(x, weight, bias) + self.update_output(x)
        gains = self.gains(weight)
        if gains is None:
            return low_rank_linear(x, weight, bias, self.is_adapted, *self.factors())
        y, gains = low_rank_linear(x, weight, None, self.is_adapted, *self.factors()), gains.flatten()
        return gains * y if bias is None else torch.addcmul(bias, gains, y)

    def layer_update(
        self, layer: ParametrizedLinear, x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"] | None:
        """Returns B A x, which is all that the update adds to the output, or None if gains scale W too."""
        return self.update_output(x) if self.gains(layer.pretrained("weight")) is None else None

    def update_output(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Returns B A x of all stacked matrices, 0 for those that are not adapted; in training x has dropout."""
        downs, ups = self.factors()
        hidden = F.linear(F.dropout(x, self.dropout, self.training), torch.cat(list(downs)))
        return F.linear(hidden, stacked(self.is_adapted, ups))


def add_updates(
    weight: Float[Tensor, "d_out d_in"], is_adapted: Sequence[bool], updates: Sequence[Float[Tensor, "d_matrix d_in"]]
) -> Float[Tensor, "d_out d_in"]:
    """Returns the weight with one update added to each adapted matrix."""
    if len(is_adapted) == 1:
        return weight + updates[0]
    remaining = iter(updates)
    matrices = zip(weight.chunk(len(is_adapted)), is_adapted, strict=True)
    return torch.cat([matrix + next(remaining) if adapted else matrix for matrix, adapted in matrices])


def stacked_gains(
    is_adapted: Sequence[bool], gains: Sequence[Float[Tensor, " d_matrix"]], *, otherwise: float
) -> Float[Tensor, " d_out"]:
    """Returns one number per output of the stacked matrices: `otherwise` for those that are not adapted."""
    remaining, filled = iter(gains), torch.full_like(gains[0], otherwise)
    return torch.cat([next(remaining) if adapted else filled for adapted in is_adapted])


def low_rank_linear(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, " d_out"] | None,
    is_adapted: Sequence[bool],
    downs: Sequence[Float[Tensor, "rank d_in"]],
    ups: Sequence[Float[Tensor, "d_matrix rank"]],
) -> Float[Tensor, "*batch d_out"]:
    """Returns the output for x of a linear layer whose adapted matrices are updated by up @ down."""
    up, down = stacked(is_adapted, ups), torch.cat(list(downs))
    if is_autocast_enabled(x.device.type):  # bfloat16 has eight bits, in which W + up @ down loses a small update
        hidden, output = F.linear(x, down), F.linear(x, weight, bias)
        return torch.addmm(output.flatten(0, -2), hidden.flatten(0, -2), up.T).view_as(output)
    return LowRankLinear.apply(x, weight, bias, down, up)


def is_autocast_enabled(device_type: str) -> bool:
    """Returns whether autocast is on. Some devices, as meta, have none."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def stacked(is_adapted: Sequence[bool], ups: Sequence[Float[Tensor, "d_matrix rank"]]) -> Float[Tensor, "d_out ranks"]:
    """Returns the up factors as blocks of one matrix, with rows of zeros for the matrices that are not adapted."""
    remaining = iter(ups)
    no_update = ups[0].new_zeros(len(ups[0]), 0)
    return torch.block_diag(*[next(remaining) if adapted else no_update for adapted in is_adapted])


def stacked_by_rows(
    is_adapted: Sequence[bool], ups: Sequence[Float[Tensor, "d_matrix rank"]]
) -> Float[Tensor, "d_out rank"]:
    """Returns the up factors of matrices that share their down factor, with zeros for those that are not adapted."""
    remaining = iter(ups)
    return torch.cat([next(remaining) if adapted else torch.zeros_like(ups[0]) for adapted in is_adapted])


def layer_factors(delta: LowRankDelta) -> tuple[Float[Tensor, "ranks d_in"], Float[Tensor, "d_out ranks"]]:
    """Returns A and B of the whole layer: with q, k and v stacked, one pair for the layer's weight."""
    downs, ups = delta.factors()
    if all(down is downs[0] for down in downs):
        return downs[0], stacked_by_rows(delta.is_adapted, ups)
    return torch.cat(list(downs)), stacked(delta.is_adapted, ups)


def only_delta(layer: Any) -> LowRankDelta | None:
    """Returns the low-rank delta of a parametrized layer's weight, if nothing else changes the layer."""
    deltas = list(layer.parametrizations.weight) if "weight" in layer.parametrizations else []
    is_alone = len(layer.parametrizations) == len(deltas) == 1
    return deltas[0] if is_alone and isinstance(deltas[0], LowRankDelta) else None


class LowRankLinear(torch.autograd.Function):
    """x (W + up down)^T + b, without a gradient as large as W.

    Adding the update to the weight is cheaper than a second pass of all tokens next to the frozen layer, forward and
    backward. The gradients of the factors need the tokens at rank r only.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, down, up)
        return linear(x, torch.addmm(weight, up, down), bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, down, up = ctx.saved_tensors
        needs_dx, _, needs_dbias, _, _ = ctx.needs_input_grad
        updated = torch.addmm(weight, up, down)  # computing it again is cheaper than keeping it
        dx = linear(dy, updated.T, None) if needs_dx else None
        dbias = dy.flatten(0, -2).sum(dim=0) if needs_dbias else None
        # the thin matrix comes last: in the other order its gradient took nine times as long at rank 4
        ddown, dup = weight_gradient(x, linear(dy, up.T, None)), weight_gradient(dy, linear(x, down, None)).T
        return dx, None, dbias, ddown, dup
