"""LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moppa.peft.blocks import find_blocks
from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta, TargetLinear, checked_rank, target_linears
from moppa.utils import validate
from moppa.utils.errors import UserError


class ScaledDelta(LowRankDelta):
    """W' = W + (alpha / r) B A, section 4.1, with A: (r, d_in), B: (d_out, r) and B = 0 at the start.

    W may be several matrices stacked by rows, as timm's fused qkv is: each adapted one has its own A and B, the
    others pass unchanged.
    """

    def __init__(self, adapted: TargetLinear, *, rank: int, alpha: float, generator: torch.Generator | None) -> None:
        super().__init__()
        d_out, d_in = adapted.part_shape
        checked_rank(rank, adapted.part_shape)
        self.parts, self.scale = adapted.parts, alpha / rank
        self.down = nn.ParameterList(torch.empty(rank, d_in) for _ in range(sum(self.parts)))
        # zero, so that the first step starts from the frozen model
        self.up = nn.ParameterList(torch.zeros(d_out, rank) for _ in range(sum(self.parts)))
        for down in self.down:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)  # as in the authors' code

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """A and (alpha / r) B of each adapted part."""
        return list(self.down), [self.scale * up for up in self.up]


def attach(
    model: nn.Module,
    *,
    rank: int | Sequence[int],
    alpha: float,
    targets: Sequence[str],
    generator: torch.Generator | None,
) -> None:
    """Gives each target (q, k, v, proj, fc1, fc2) of every block an update of rank `rank`, scaled by alpha / rank.

    Several ranks share the depth equally among them, in this order; with fewer blocks than ranks some go unused.
    """
    validate.number("method.attach.alpha", alpha, minimum=0, exclusive_minimum=True)
    ranks = ranks_of(rank, num_blocks=len(find_blocks(model)))
    for adapted in target_linears(model, targets, method="LoRA"):
        delta = ScaledDelta(adapted, rank=ranks[adapted.depth], alpha=alpha, generator=generator)
        parametrize_weights(adapted.layer, weight=delta)


def ranks_of(rank: int | Sequence[int], *, num_blocks: int) -> list[int]:
    """The rank of each block: of several, the one in whose share of the depth the block's middle lies."""
    ranks = list(rank) if isinstance(rank, Sequence) else [rank]
    if not ranks:
        raise UserError("method.attach.rank=[]: give one rank, or several that share the depth")
    return [ranks[(2 * depth + 1) * len(ranks) // (2 * num_blocks)] for depth in range(num_blocks)]
