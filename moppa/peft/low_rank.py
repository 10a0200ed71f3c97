"""The linear layers that weight methods adapt, by the papers' names, in every block of a transformer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.blocks import find_blocks
from moppa.peft.inject import DirectLinear
from moppa.utils import validate
from moppa.utils.errors import UserError
from moppa.utils.matmul import linear, weight_gradient

QKV = ("q", "k", "v")
PATHS = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
TARGETS = (*QKV, *PATHS)


@dataclass(frozen=True, kw_only=True)
class TargetLinear:
    """A linear layer, by its owner and name, and which of the matrices that are stacked in its weight are adapted.

    timm fuses q, k and v into one weight of three equal parts; every other layer has one part.
    """

    owner: nn.Module
    name: str
    depth: int
    parts: tuple[bool, ...]

    @property
    def layer(self) -> nn.Linear:
        """The layer that stands there now."""
        return getattr(self.owner, self.name)

    @property
    def part_shape(self) -> tuple[int, int]:
        """(d_out, d_in) of one of the stacked matrices."""
        return self.layer.out_features // len(self.parts), self.layer.in_features


def target_linears(model: nn.Module, targets: Sequence[str], *, method: str) -> list[TargetLinear]:
    """The layers of all blocks that the targets (q, k, v, proj, fc1, fc2) name, by depth, qkv first.

    Raises:
        UserError: for targets that are none, unknown or named twice, and for blocks without such a layer.
    """
    for target in targets:
        validate.one_of("method.attach.targets", target, TARGETS)
    if not targets or len(set(targets)) < len(targets):
        raise UserError(f"method.attach.targets={list(targets)}: name at least one of {', '.join(TARGETS)}, each once")
    wanted = {"attn.qkv": tuple(part in targets for part in QKV)}
    wanted |= {path: (True,) for target, path in PATHS.items() if target in targets}
    return [
        find_linear(place.module, path, depth=depth, parts=parts, of=model, method=method)
        for depth, place in enumerate(find_blocks(model))
        for path, parts in wanted.items()
        if any(parts)
    ]


def find_linear(
    block: nn.Module, path: str, *, depth: int, parts: tuple[bool, ...], of: nn.Module, method: str
) -> TargetLinear:
    """The linear layer of a transformer block at a dotted path."""
    outer, _, name = path.rpartition(".")
    owner = getattr(block, outer, None)
    if owner is None or not isinstance(getattr(owner, name, None), nn.Linear):
        raise UserError(
            f"{method} adapts the linear layers of transformer blocks; those of {type(of).__name__} have no {path}"
        )
    return TargetLinear(owner=owner, name=name, depth=depth, parts=parts)


def checked_rank(rank: int, shape: Sequence[int]) -> int:
    """A rank that a d_out x d_in weight can have."""
    validate.integer("method.attach.rank", rank, minimum=1)
    if rank > min(shape):
        raise UserError(
            f"method.attach.rank={rank} is above the {min(shape)} that a {shape[0]} x {shape[1]} weight can have; "
            f"choose a smaller rank"
        )
    return rank


class LowRankDelta(nn.Module):
    """W' = W + B A in each adapted one of the matrices that are stacked in W; a method says what A and B are."""

    parts: tuple[bool, ...]

    def factors(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """A: (r, d_in) and B: (d_out, r) of each adapted part, scales included."""
        raise NotImplementedError

    def forward(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        return add_to_slices(weight, self.parts, [up @ down for down, up in zip(*self.factors(), strict=True)])

    def applied(self, layer: DirectLinear, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """W' x + b."""
        return low_rank_linear(x, layer.pretrained("weight"), layer.pretrained("bias"), self.parts, *self.factors())


def add_to_slices(
    weight: Float[Tensor, "d_out d_in"], parts: Sequence[bool], updates: Sequence[Float[Tensor, "d_part d_in"]]
) -> Float[Tensor, "d_out d_in"]:
    """The weight with one update added to each adapted part; the others pass unchanged."""
    if len(parts) == 1:
        return weight + updates[0]
    waiting = iter(updates)
    rows = zip(weight.chunk(len(parts)), parts, strict=True)
    return torch.cat([row + next(waiting) if is_adapted else row for row, is_adapted in rows])


def low_rank_linear(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, " d_out"] | None,
    parts: Sequence[bool],
    downs: Sequence[Float[Tensor, "rank d_in"]],
    ups: Sequence[Float[Tensor, "d_part rank"]],
) -> Float[Tensor, "*batch d_out"]:
    """What a linear layer gives for x where each adapted part of its weight is updated by up @ down."""
    waiting = iter(ups)
    silent = ups[0].new_zeros(len(ups[0]), 0)  # rows of zeros for a part that has no update
    up = torch.block_diag(*[next(waiting) if is_adapted else silent for is_adapted in parts])
    down = torch.cat(list(downs))
    if torch.is_autocast_enabled(x.device.type):  # W + up @ down would lose a small update to bfloat16's eight bits
        hidden, output = F.linear(x, down), F.linear(x, weight, bias)
        return torch.addmm(output.flatten(0, -2), hidden.flatten(0, -2), up.T).view_as(output)
    return LowRankLinear.apply(x, weight, bias, down, up)


class LowRankLinear(torch.autograd.Function):
    """x (W + up down)^T + b, of which no gradient is as large as W.

    The updated weight costs less than to pass all tokens once more, forward and backward, beside a frozen one; the
    gradients of the factors need the tokens at rank r alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, down, up)
        return linear(x, torch.addmm(weight, up, down), bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, down, up = ctx.saved_tensors
        needs_dx, _, needs_dbias, _, _ = ctx.needs_input_grad
        low_rank_linear = torch.addmm(weight, up, down)  # made again, which is cheaper than to keep it
        dx = linear(dy, low_rank_linear.T, None) if needs_dx else None
        dbias = dy.flatten(0, -2).sum(dim=0) if needs_dbias else None
        # the thin matrix last: the other way round its gradient took nine times as long at rank 4
        ddown, dup = weight_gradient(x, linear(dy, up.T, None)), weight_gradient(dy, linear(x, down, None)).T
        return dx, None, dbias, ddown, dup
