"""FacT: Jie and Deng, "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer", AAAI 2023.

arXiv 2212.03145. The weights of all L blocks form one tensor of 12 L slices, d x d, from input to output: q, k, v,
proj, the four that are side by side in fc1, and the four whose outputs fc2 adds. Its update is
factorized: Delta_i = s U Sigma_i V^T.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.blocks import find_blocks
from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta, check_rank
from moppa.peft.targets import TARGETS, target_linears
from moppa.utils import validate
from moppa.utils.errors import UserError

DECOMPOSITIONS = ("tensor_train", "tucker")


class Factors(nn.Module):
    """The factors that all slices share: U (d, r) and V (d, r), and the Sigma (12 L, r, r) of FacT-TT.

    FacT-TK mixes the slices of one core C (r, r, r) by P (12 L, r): Sigma_i = sum_t P_it C_t.
    """

    def __init__(
        self, *, dim: int, rank: int, num_slices: int, decomposition: str, generator: torch.Generator | None
    ) -> None:
        super().__init__()

        def uniform(*shape: int, bound: float) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))

        # the bounds are those of the authors' code, except for fc2 in FacT-TT, whose cores it starts at half of them
        self.input = uniform(dim, rank, bound=dim**-0.5)
        if decomposition == "tucker":
            self.core = uniform(rank, rank, rank, bound=3**0.5 / rank)
            self.mix = uniform(num_slices, rank, bound=(6 / (num_slices + rank)) ** 0.5)
        else:
            self.core, self.mix = uniform(num_slices, rank, rank, bound=rank**-0.5), None
        self.output = nn.Parameter(torch.zeros(dim, rank))  # zero: training starts from the frozen model

    def forward(self, first: int, last: int) -> Float[Tensor, "slices rank rank"]:
        """Returns Sigma_i of the slices first, ..., last - 1."""
        if self.mix is None:
            return self.core[first:last]
        return torch.einsum("it,tab->iab", self.mix[first:last], self.core)


class FacTDelta(LowRankDelta):
    """W' = W + s V Sigma_i^T U^T in each d x d slice of W, which has `rows` x `columns` of them.

    The authors drop out a tenth of the r activations between the factors, which a weight cannot: this does not.
    """

    is_adapted = (True,)

    def __init__(self, factors: Factors, *, first: int, rows: int, columns: int, scale: float) -> None:
        super().__init__()
        self.shared, self.scale = factors, scale
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
        return cores.unflatten(0, (self.rows, self.columns))


def attach(model: nn.Module, *, decomposition: str, rank: int, scale: float, generator: torch.Generator | None) -> None:
    """Updates q, k, v, proj, fc1 and fc2 of every block from one set of factors, tensor_train or tucker.

    The authors' FacT-TK reshapes the cores of fc1 and fc2 with slices and rank interleaved; this is the paper's tensor.
    """
    validate.one_of("decomposition", decomposition, DECOMPOSITIONS)
    validate.number("scale", scale, minimum=0, exclusive_minimum=True)
    blocks, kind = find_blocks(model), type(model).__name__
    dim = blocks[0].dim
    if any(block.layout != "tokens" for block in blocks):
        raise UserError(f"FacT shares its factors between blocks of one width, which {kind} lacks; choose a plain ViT")
    layers = [target.layer for target in target_linears(model, TARGETS, method="FacT")]
    check_rank(rank, (dim, dim))
    if unfit := [layer for layer in layers if layer.out_features % dim or layer.in_features % dim]:
        raise UserError(
            f"FacT divides weights into {dim} x {dim} slices, and {unfit[0]} of {kind} does not divide evenly"
        )
    shapes = [(layer.out_features // dim, layer.in_features // dim) for layer in layers]
    factors = Factors(
        dim=dim,
        rank=rank,
        num_slices=sum(rows * columns for rows, columns in shapes),
        decomposition=decomposition,
        generator=generator,
    )
    first = 0
    for layer, (rows, columns) in zip(layers, shapes, strict=True):
        parametrize_weights(layer, weight=FacTDelta(factors, first=first, rows=rows, columns=columns, scale=scale))
        first += rows * columns
