"""Weights of all blocks as one tensor of d x d slices, whose updates share their factors: FacT.

Jie and Deng, "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer", AAAI 2023, arXiv 2212.03145.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.blocks import find_blocks
from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta, check_rank
from moppa.peft.targets import TARGETS, target_linears
from moppa.utils import validate
from moppa.utils.errors import UserError


class SliceFactors(nn.Module):
    """U (d, r) and V (d, r), which all slices share, and the cores Sigma_i (r, r): Delta_i = s U Sigma_i V^T."""

    input: nn.Parameter
    output: nn.Parameter

    def forward(self, first: int, last: int) -> Float[Tensor, "slices rank rank"]:
        """Returns Sigma_i of the slices first, ..., last - 1."""
        raise NotImplementedError


class SliceDelta(LowRankDelta):
    """W' = W + s V Sigma_i^T U^T in each d x d slice of W, which has `rows` x `columns` of them.

    If they are interleaved, the r x r cores side by side are read as one r x (k r) matrix, slice by slice within each
    rank, and divided again: the layout of FacT-TK's code for fc1, and transposed for fc2.
    """

    is_adapted = (True,)

    def __init__(
        self, factors: SliceFactors, *, first: int, rows: int, columns: int, scale: float, is_interleaved: bool
    ) -> None:
        super().__init__()
        self.shared, self.scale, self.is_interleaved = factors, scale, is_interleaved
        self.first, self.rows, self.columns = first, rows, columns

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns two factors of the whole update, of width r if the slices are in one row or column.

        Slices in one column share U^T as the first factor, slices in one row share V as the second.
        """
        cores = self.scale * self.sigma
        if self.columns <= self.rows:
            down = torch.block_diag(*[self.shared.input.T] * self.columns)
            return [down], [torch.einsum("ob,rcab->roca", self.shared.output, cores).flatten(2).flatten(0, 1)]
        up = torch.block_diag(*[self.shared.output] * self.rows)
        return [torch.einsum("rcab,ia->rbci", cores, self.shared.input).flatten(2).flatten(0, 1)], [up]

    @property
    def sigma(self) -> Float[Tensor, "rows columns rank rank"]:
        """The cores of the layer's slices."""
        cores = self.shared(self.first, self.first + self.rows * self.columns)
        if self.is_interleaved:
            count, _, rank = cores.shape
            matrix = cores.permute(1, 2, 0).reshape(rank, count, rank)
            cores = matrix.permute(1, 2, 0) if self.columns > 1 else matrix.permute(1, 0, 2)
        return cores.unflatten(0, (self.rows, self.columns))


def attach_slices(
    model: nn.Module, make_factors: Callable[[int, int], SliceFactors], *, rank: int, scale: float, interleaves: bool
) -> None:
    """Updates q, k, v, proj, fc1 and fc2 of every block from one set of factors, `make_factors(dim, num_slices)`.

    The slices of a block are, from input to output: q, k, v, proj, the four that are side by side in fc1, and the four
    whose outputs fc2 adds. `interleaves` applies to fc1 and fc2.
    """
    validate.number("scale", scale, minimum=0, exclusive_minimum=True)
    blocks, kind = find_blocks(model), type(model).__name__
    dim = blocks[0].dim
    if any(block.layout != "tokens" for block in blocks):
        raise UserError(f"FacT shares its factors between blocks of one width, which {kind} lacks; choose a plain ViT")
    targets = target_linears(model, TARGETS, method="FacT")
    check_rank(rank, (dim, dim))
    layers = [target.layer for target in targets]
    if unfit := [layer for layer in layers if layer.out_features % dim or layer.in_features % dim]:
        raise UserError(
            f"FacT divides weights into {dim} x {dim} slices, and {unfit[0]} of {kind} does not divide evenly"
        )
    shapes = [(layer.out_features // dim, layer.in_features // dim) for layer in layers]
    factors, first = make_factors(dim, sum(rows * columns for rows, columns in shapes)), 0
    for target, (rows, columns) in zip(targets, shapes, strict=True):
        delta = SliceDelta(
            factors,
            first=first,
            rows=rows,
            columns=columns,
            scale=scale,
            is_interleaved=interleaves and target.name in ("fc1", "fc2"),
        )
        parametrize_weights(target.layer, weight=delta)
        first += rows * columns


def uniform(*shape: int, bound: float, generator: torch.Generator | None) -> nn.Parameter:
    """Returns a parameter drawn uniformly within +-bound."""
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))
