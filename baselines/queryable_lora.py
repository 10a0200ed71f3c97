"""Queryable LoRA: LoRA with an operator in its bottleneck, mixed from a shared memory by attention.

Vaidya et al., "Queryable LoRA: Instruction-Regularized Routing Over Shared Low-Rank Update Atoms", 2026,
arXiv 2605.08423. Our reading of the abstract, without the prior from language.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from moppa.peft.atoms import Memory
from moppa.peft.blocks import find_plain_blocks
from moppa.peft.initialize import initialize
from moppa.peft.low_rank import check_rank
from moppa.peft.stacked_updates import add_updates_to
from moppa.peft.targets import QKV, TargetLinear, target_linears
from moppa.utils import validate


class QueryableUpdate(nn.Module):
    """u(x) = (alpha / r) B R(A x, x) A x, with B = 0 at the start."""

    def __init__(
        self, target: TargetLinear, memory: Memory, *, rank: int, scale: float, generator: Generator | None
    ) -> None:
        super().__init__()
        d_out, d_in = target.matrix_shape
        self.memory, self.scale = memory, scale
        self.down, self.up = nn.Parameter(torch.empty(rank, d_in)), nn.Parameter(torch.zeros(d_out, rank))
        initialize([self.down], [self.up], "kaiming_uniform", generator)

    def forward(self, x: Float[Tensor, "batch n d_in"]) -> Float[Tensor, "batch n d_out"]:
        return F.linear(self.memory(F.linear(x, self.down), x), self.scale * self.up)


def attach(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    num_atoms: int,
    query_dim: int,
    generator: Generator | None,
) -> None:
    """Adds to each target (q, k, v) of every block an update of rank `rank`, scaled by alpha / rank.

    Its operator is mixed from `num_atoms` atoms, which all blocks share, by a query with `query_dim` entries.
    """
    validate.number("alpha", alpha, minimum=0, exclusive_minimum=True)
    validate.integer("num_atoms", num_atoms, minimum=1)
    validate.integer("query_dim", query_dim, minimum=1)
    validate.subset("targets", targets, QKV)
    blocks = find_plain_blocks(model, purpose="Queryable LoRA averages the tokens of")  # a window is not the image
    linears = target_linears(model, targets, method="Queryable LoRA")
    for target in linears:
        check_rank(rank, target.matrix_shape)
    memory = Memory(blocks[0].dim, rank=rank, num_atoms=num_atoms, query_dim=query_dim, generator=generator)
    for target in linears:
        update = partial(QueryableUpdate, target, memory, rank=rank, scale=alpha / rank, generator=generator)
        add_updates_to(target, update, method="Queryable LoRA")
