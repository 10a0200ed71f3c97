"""Rotations of what linear layers read, by blocks of inputs: OFT and BOFT.

All products are computed as differences from the identity, which are exactly zero at the start.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from moppa.peft.inject import ParametrizedLinear
from moppa.peft.targets import TargetLinear
from moppa.utils import validate
from moppa.utils.errors import SettingError

Blocks = Float[Tensor, "blocks size size"]  # of a block-diagonal matrix


class RotationDelta(nn.Module):
    """W' = W R^T with R = B_m ... B_1 for each adapted one of the matrices stacked in W; R = I at the start.

    B_1 rotates blocks of b inputs. B_i rotates pairs of b / 2 neighboring inputs that are 2^(i - 1) b / 2 apart, a
    butterfly. Each block is (I - Q) (I + Q)^-1, Cayley's transform of a skew-symmetric Q, whose entries are trained.
    """

    def __init__(self, target: TargetLinear, *, block_size: int, num_factors: int) -> None:
        super().__init__()
        d_in = target.matrix_shape[1]
        check_blocks(d_in, block_size, num_factors)
        self.is_adapted, self.block_size = target.is_adapted, block_size
        rows, columns = torch.triu_indices(block_size, block_size, 1, device="cpu")
        self.register_buffer("above_diagonal", rows * block_size + columns, persistent=False)
        shape = (num_factors, d_in // block_size, len(rows))
        self.skew = nn.ParameterList(torch.zeros(shape) for _ in range(sum(self.is_adapted)))

    def blocks(self) -> list[Blocks]:
        """Returns the blocks of R - I for each adapted matrix."""
        factors = cayley(torch.stack(list(self.skew)), self.get_buffer("above_diagonal"), self.block_size)
        return [product(list(matrix_factors)) for matrix_factors in factors]

    def forward(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        blocks, matrices = iter(self.blocks()), zip(weight.chunk(len(self.is_adapted)), self.is_adapted, strict=True)
        return torch.cat([rotate(matrix, next(blocks).mT) if adapted else matrix for matrix, adapted in matrices])

    def layer_output(self, layer: ParametrizedLinear, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Returns W R^T x + c, whose gradients are as small as the blocks."""
        blocks, num_matrices = iter(self.blocks()), len(self.is_adapted)
        bias = layer.pretrained("bias")
        stacked = zip(
            layer.pretrained("weight").chunk(num_matrices),
            [None] * num_matrices if bias is None else bias.chunk(num_matrices),
            self.is_adapted,
            strict=True,
        )
        return torch.cat(
            [F.linear(rotate(x, next(blocks)) if adapted else x, matrix, part) for matrix, part, adapted in stacked],
            dim=-1,
        )


def check_blocks(d_in: int, block_size: int, num_factors: int) -> None:
    """Raises `SettingError` if `d_in` inputs cannot be divided into the blocks of all factors."""
    validate.integer("block_size", block_size, minimum=2)
    validate.integer("num_factors", num_factors, minimum=1)
    if d_in % block_size:
        raise SettingError(
            "block_size", f"={block_size} does not divide the {d_in} inputs of a layer; choose a divisor of them"
        )
    if num_factors > 1 and (block_size % 2 or d_in % (block_size * 2 ** (num_factors - 1))):
        most = 1 if block_size % 2 else 1 + int(math.log2((d_in // block_size) & -(d_in // block_size)))
        raise SettingError(
            "num_factors",
            f"={num_factors}: {d_in} inputs in blocks of {block_size} have at most {most}; choose fewer factors",
        )


def cayley(
    entries: Float[Tensor, "*factors entries"], above_diagonal: Int[Tensor, " entries"], size: int
) -> Float[Tensor, "*factors size size"]:
    """Returns (I - Q) (I + Q)^-1 - I = -2 Q (I + Q)^-1 for each Q with these entries, in at least float32."""
    upper = entries.new_zeros(*entries.shape[:-1], size * size).index_copy(-1, above_diagonal, entries)
    upper = upper.unflatten(-1, (size, size)).to(torch.promote_types(entries.dtype, torch.float32))
    q, identity = upper - upper.mT, torch.eye(size, dtype=upper.dtype, device=upper.device)
    return torch.linalg.solve_ex(identity + q, -2 * q, left=False)[0]  # I + Q has an inverse: there is no error to read


def product(factors: Sequence[Blocks]) -> Float[Tensor, "wide_blocks width width"]:
    """Returns the blocks of B_m ... B_1 - I for the blocks of each B_i - I: m factors mix b 2^(m - 1) inputs each.

    The tokens are then multiplied once, by blocks that are larger, in a fraction of the time.
    """
    if len(factors) == 1:
        return factors[0]
    num_blocks, size, _ = factors[0].shape
    width = size * 2 ** (len(factors) - 1)
    identity = torch.eye(width, dtype=factors[0].dtype, device=factors[0].device)
    rows = identity.repeat(1, num_blocks * size // width)
    rotated = rows
    for level in reversed(range(len(factors))):
        rotated = rotated + butterfly(rotated, factors[level], level)
    return (rotated - rows).unflatten(1, (-1, width)).transpose(0, 1)


def butterfly(x: Float[Tensor, "rows d_in"], blocks: Blocks, level: int) -> Float[Tensor, "rows d_in"]:
    """Returns x times a matrix whose blocks act on pairs of half blocks that are 2^level halves apart."""
    pairs = x.unflatten(-1, (-1, 2, 2**level, blocks.shape[1] // 2)).transpose(-2, -3)
    products = block_product(pairs.flatten(1), blocks)
    return products.view_as(pairs).transpose(-2, -3).flatten(1)


def rotate(x: Float[Tensor, "*batch d_in"], blocks: Blocks) -> Float[Tensor, "*batch d_in"]:
    """Returns x R for the blocks of R - I."""
    return x + block_product(x, blocks.to(x.dtype))


def block_product(x: Float[Tensor, "*batch d_in"], blocks: Blocks) -> Float[Tensor, "*batch d_in"]:
    """Returns x times the block-diagonal matrix."""
    return torch.einsum("...kb,kbc->...kc", x.unflatten(-1, (len(blocks), -1)), blocks).flatten(-2)
