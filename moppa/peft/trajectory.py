"""The hidden states of a model over depth as points of a polyline, and those that Ramer-Douglas-Peucker keeps."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.blocks import BlockInfo
from moppa.peft.inject import wrap_module
from moppa.peft.sensitivity import Batches

Products = Float[Tensor, "points points"]


class RecordedBlock(nn.Module):
    """A block that keeps the tokens that entered and left it in the last forward pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        self.entered, self.left = x, self.inner(x, **kwargs)
        return self.left


@torch.no_grad()
def trajectory_products(model: nn.Module, blocks: Sequence[BlockInfo], batches: Batches) -> Products:
    """Returns the inner products of p_0, what enters the first block, and p_l, what leaves block l = 1, ..., L.

    A point holds all tokens of all images, so that no token and no image is preferred. The model runs in eval mode.
    """
    was_training, products = model.training, []
    for block in blocks:
        wrap_module(block.owner, block.name, RecordedBlock)
    for images, _ in batches:
        model.eval()(images)
        recorded: list[Any] = [block.module for block in blocks]
        points = torch.stack([recorded[0].entered, *(block.left for block in recorded)]).flatten(1).double()
        products.append(points @ points.T)
    for block in blocks:
        wrap_module(block.owner, block.name, lambda block: block.get_submodule("inner"))
    model.train(was_training)
    return torch.stack(products).sum(dim=0)


def pivots(products: Products, count: int) -> list[int]:
    """Returns the `count` points after p_0 that Ramer-Douglas-Peucker keeps, with the tolerance that keeps so many.

    The last point is one of them. Each further one is the farthest from the line through the kept points around it.
    """
    kept = [0, len(products) - 1]
    while len(kept) <= count:
        farthest = [farthest_point(products, first, last) for first, last in pairwise(kept)]
        kept = sorted([*kept, max(farthest)[1]])
    return kept[1:]


def farthest_point(products: Products, first: int, last: int) -> tuple[float, int]:
    """Returns the squared distance and the index of the point between two others that is farthest from their line."""
    if last == first + 1:
        return float("-inf"), first
    origin = products - products[first] - products[:, first, None] + products[first, first]  # moved to p_first
    chord, along = origin[last, last], origin[first + 1 : last, last]
    distances = origin.diagonal()[first + 1 : last] - along**2 / chord.clamp(min=torch.finfo(chord.dtype).tiny)
    return float(distances.max()), first + 1 + int(distances.argmax())
