"""Relaxed recursive transformer: blocks tied in loops, with a LoRA in each that starts from what tying has lost.

Bae et al., "Relaxed Recursive Transformers: Effective Parameter Sharing with Layer-wise LoRA", ICLR 2025,
arXiv 2410.20672.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from moppa.peft.blocks import find_plain_blocks
from moppa.peft.decompose import truncated_svd
from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta, check_rank
from moppa.peft.targets import TARGETS, TargetLinear, target_linears
from moppa.utils import validate
from moppa.utils.errors import UserError

STARTS = ("average", "stepwise")


class ResidualDelta(LowRankDelta):
    """W' = T + B A for each stacked matrix: T is the weight of all loops, and B A the SVD of `residual` at first."""

    def __init__(self, target: TargetLinear, residual: Tensor, *, rank: int) -> None:
        super().__init__()
        self.is_adapted = target.is_adapted
        check_rank(rank, target.matrix_shape)
        residuals = residual.to(torch.promote_types(residual.dtype, torch.float32)).chunk(len(self.is_adapted))
        parts = [truncated_svd(matrix, rank) for matrix in residuals]
        self.down = nn.ParameterList(v_transposed.contiguous() for _, _, v_transposed in parts)
        self.up = nn.ParameterList(u * s for u, s, _ in parts)

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns A and B of each matrix."""
        return list(self.down), list(self.up)


@torch.no_grad()
def attach(model: nn.Module, *, num_loops: int, start: str, rank: int) -> None:
    """Ties the linear layers of blocks l, l + K, l + 2 K, ..., with K = L / `num_loops` rounded up, and adds a LoRA.

    The tied weight is the mean of those that it replaces (`average`), or that of one of the blocks (`stepwise`), which
    are at equal intervals from the first to the last. The weights that it replaces are dropped. Biases and norms stay
    those of each block.
    """
    validate.integer("num_loops", num_loops, minimum=1)
    validate.one_of("start", start, STARTS)
    blocks = find_plain_blocks(model, purpose="A recursive transformer ties")  # of one width
    length = -(-len(blocks) // num_loops)
    linears: dict[str, list[TargetLinear]] = {}
    for target in target_linears(model, TARGETS, method="A recursive transformer"):
        linears.setdefault(target.name, []).append(target)
    for layers in linears.values():
        if any(parametrize.is_parametrized(target.layer) for target in layers):
            raise UserError("tying replaces weights that another method changes already: attach the tied blocks first")
        weights = [target.layer.weight.detach() for target in layers]
        for first in range(length):
            chosen = weights[first::length]
            if start == "stepwise":
                chosen = [weights[round(first * (len(blocks) - 1) / max(1, length - 1))]]
            tied = nn.Parameter(torch.stack(chosen).mean(dim=0), requires_grad=False)
            for target, weight in zip(layers[first::length], weights[first::length], strict=True):
                delta = ResidualDelta(target, weight - tied, rank=rank)
                target.layer.weight = tied  # one tensor for all loops
                parametrize_weights(target.layer, weight=delta)
