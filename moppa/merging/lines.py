"""LiNeS: Wang et al., "LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging", ICLR 2025,
arXiv 2410.17146.
"""

import re
from collections.abc import Iterable, Sequence

from torch import Tensor

from moppa.merging import task_arithmetic
from moppa.merging.updates import Delta
from moppa.utils import validate

BLOCK = re.compile(r"^(?:(?:layers|stages)\.(\d+)\.)?blocks\.(\d+)\.")  # of a ViT, a Swin, a ConvNeXt


def merge(deltas: Sequence[Delta], *, alpha: float | None, beta: float | None) -> dict[str, Tensor]:
    """Returns the sum of the deltas times alpha + beta l / (L - 1) in block l of L, and alpha outside of the blocks.

    alpha None is 1 / T for T experts, which is the authors' formula for a sum. beta None is 1 - alpha, so that the last
    block keeps the whole sum.
    """
    alpha = 1 / len(deltas) if alpha is None else validate.number("alpha", alpha, minimum=0.0)
    beta = 1 - alpha if beta is None else validate.number("beta", beta, minimum=0.0)
    summed = task_arithmetic.merge(deltas)
    depths = relative_depths(summed)
    return {name: (alpha + beta * depths[name]) * tensor for name, tensor in summed.items()}


def relative_depths(names: Iterable[str]) -> dict[str, float]:
    """Returns l / (L - 1) of the block l that each tensor belongs to, and 0 outside of the blocks."""
    numbers = block_numbers(names)
    last = max(1, max(numbers.values(), default=0) - 1)
    return {name: max(0, number - 1) / last for name, number in numbers.items()}


def block_numbers(names: Iterable[str]) -> dict[str, int]:
    """Returns the number of the block that each tensor belongs to, from 1 in depth order, and 0 outside of blocks."""
    blocks = {
        name: tuple(map(int, (found[1] or 0, found[2]))) if (found := BLOCK.match(name)) else None for name in names
    }
    order = sorted({block for block in blocks.values() if block is not None})
    return {name: 0 if block is None else 1 + order.index(block) for name, block in blocks.items()}
