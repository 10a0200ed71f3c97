"""LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moppa.peft.blocks import find_blocks
from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta, check_rank
from moppa.peft.targets import TargetLinear, target_linears
from moppa.utils import validate
from moppa.utils.errors import SettingError


class LoRADelta(LowRankDelta):
    """W' = W + (alpha / r) B A, with A (r, d_in), B (d_out, r), and B = 0 at the start.

    If W is several matrices stacked by rows, as timm's qkv, each adapted one has its own A and B.
    """

    def __init__(self, target: TargetLinear, *, rank: int, alpha: float, generator: torch.Generator | None) -> None:
        super().__init__()
        d_out, d_in = target.matrix_shape
        check_rank(rank, target.matrix_shape)
        self.is_adapted, self.scale = target.is_adapted, alpha / rank
        num_adapted = sum(self.is_adapted)
        self.down = nn.ParameterList(torch.empty(rank, d_in) for _ in range(num_adapted))
        self.up = nn.ParameterList(torch.zeros(d_out, rank) for _ in range(num_adapted))
        for down in self.down:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)  # as in the authors' code

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns A and (alpha / r) B of each adapted matrix."""
        return list(self.down), [self.scale * up for up in self.up]


def attach(
    model: nn.Module,
    *,
    rank: int | Sequence[int],
    alpha: float,
    targets: Sequence[str],
    generator: torch.Generator | None,
) -> None:
    """Adds to each target (q, k, v, proj, fc1, fc2) of every block an update of rank `rank`, scaled by alpha / rank.

    A list of ranks divides the depth equally among its ranks, in order. With fewer blocks than ranks some go unused.
    """
    validate.number("alpha", alpha, minimum=0, exclusive_minimum=True)
    ranks = ranks_by_depth(rank, num_blocks=len(find_blocks(model)))
    for target in target_linears(model, targets, method="LoRA"):
        delta = LoRADelta(target, rank=ranks[target.depth], alpha=alpha, generator=generator)
        parametrize_weights(target.layer, weight=delta)


def ranks_by_depth(rank: int | Sequence[int], *, num_blocks: int) -> list[int]:
    """Returns the rank of each block: of a list, the rank whose share of the depth contains the block's middle."""
    ranks = list(rank) if isinstance(rank, Sequence) else [rank]
    if not ranks:
        raise SettingError("rank", "=[]: give one rank, or several that divide the depth")
    return [ranks[(2 * depth + 1) * len(ranks) // (2 * num_blocks)] for depth in range(num_blocks)]
