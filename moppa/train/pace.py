"""PACE: Ni, Zhang and Koniusz, "PACE: Marrying Generalization in PArameter-efficient fine-tuning with Consistency".

Regularization of any method: noise multiplies what the method adds to the frozen model's features, and the logits of
two passes with different noise are drawn together. NeurIPS 2024, arXiv 2409.17137; the authors' code:
github.com/MaxwellYaoNi/PACE.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from moppa.peft.blocks import find_blocks
from moppa.peft.collect import trains_only_head
from moppa.peft.noise import noisy_modules, set_noise
from moppa.utils import validate
from moppa.utils.errors import SettingError

Forward = Callable[[Tensor], Tensor]
Penalty = Callable[[Tensor | float], Tensor | float]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The settings: `weight` of the penalty, and the noise's standard deviation `sigma` in block `from_block`.

    It falls linearly with the depth, and earlier blocks have none.
    """

    weight: float
    sigma: float
    from_block: int

    def __post_init__(self) -> None:
        validate.number("train.pace", self.weight, minimum=0)
        validate.number("train.pace_sigma", self.sigma, minimum=0)
        validate.integer("train.pace_from_block", self.from_block, minimum=0)

    def sigma_at(self, depth: int, num_blocks: int) -> float:
        """Returns sigma in block 0, 1, ..., and for the head, whose depth is the number of blocks."""
        share = (num_blocks + 1 - depth) / (num_blocks + 1 - self.from_block)
        return self.sigma * share if depth >= self.from_block else 0.0


class FeatureNoise(nn.Module):
    """(1 + sigma z) y in training, with z from N(0, 1) for each image and channel, the same for all tokens."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, y: Tensor) -> Tensor:
        if not self.training:
            return y
        noise = torch.randn(y.shape[0], *[1] * (y.ndim - 2), y.shape[-1], dtype=y.dtype, device=y.device)
        return torch.addcmul(y, y, noise, value=self.sigma)


class PairedDropPath(nn.Module):
    """Drop path with equal factors for the two passes of an image, which are the two halves of the batch."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        factors = x.new_empty(x.shape[0] // 2).bernoulli_(keep_prob).div_(keep_prob)
        return x * factors.repeat(2).view(-1, *[1] * (x.ndim - 1))


@contextmanager
def noisy_features(model: nn.Module, pace: Pace | None) -> Iterator[None]:
    """Puts noise on what the method adds, and pairs every drop path, inside the context.

    Raises:
        SettingError: if the method adds nothing to features that noise can multiply, or `from_block` is too deep.
    """
    if pace is None:
        yield
        return
    blocks = [] if trains_only_head(model) else find_blocks(model)
    noisy = [(depth, part) for depth, block in enumerate(blocks) for part in noisy_modules(block.module)]
    if not noisy:
        raise SettingError(
            "train.pace",
            f"={pace.weight}: this method adds nothing to the features that noise can multiply; set it to null, or "
            f"choose a method of linear layers, an adapter or MoPPA",
        )
    if pace.from_block >= len(blocks):
        raise SettingError(
            "train.pace_from_block", f"={pace.from_block}: the model has {len(blocks)} blocks; choose a lower one"
        )
    for depth, part in noisy:
        set_noise(part, FeatureNoise(pace.sigma_at(depth, len(blocks))).train(model.training))
    owners: list[tuple[Any, str, DropPath]] = [
        (owner, name, child)
        for owner in model.modules()
        for name, child in owner.named_children()
        if isinstance(child, DropPath)
    ]
    for owner, name, child in owners:
        setattr(owner, name, PairedDropPath(child.drop_prob).train(child.training))
    try:
        yield
    finally:
        for owner, name, child in owners:
            setattr(owner, name, child.train(owner.training))
        for _, part in noisy:
            set_noise(part, None)


def with_consistency(
    model: nn.Module, forward: Forward, penalty: Penalty, pace: Pace | None
) -> tuple[Forward, Penalty]:
    """Returns a forward pass of which the cross-entropy sees the first of two passes, and a penalty on their distance.

    The penalty is weight ||f_1 - f_2||^2, averaged over images, with f the logits of a pass. It clears the distance.
    Both passes are one of twice the batch size. Without PACE the arguments are returned.
    """
    if pace is None:
        return forward, penalty
    num_blocks, distances = len(find_blocks(model)), []
    noise = FeatureNoise(pace.sigma_at(num_blocks, num_blocks)).train()

    def forward_twice(images: Tensor) -> Tensor:
        first, second = noise(forward(torch.cat([images, images]))).chunk(2)
        distances.append(squared_distance(first, second))
        return first

    return forward_twice, lambda progress: penalty(progress) + pace.weight * distances.pop()


def squared_distance(first: Tensor, second: Tensor) -> Tensor:
    """Returns the squared distance of two batches of logits, averaged over images, in at least float32."""
    dtype = torch.promote_types(first.dtype, torch.float32)
    return (first.to(dtype) - second.to(dtype)).square().sum(dim=1).mean()
