"""RLRR: Dong et al., "Low-Rank Rescaled Vision Transformer Fine-Tuning: A Residual Design Approach", CVPR 2024.

arXiv 2403.19067.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from moppa.peft.affine import append_scale_and_shift, check_bias
from moppa.peft.dense import DenseDelta
from moppa.peft.inject import parametrize_weights
from moppa.peft.targets import TARGETS, TargetLinear, target_linears
from moppa.utils import validate

from .ssf import scaled_operations


class RescaledWeight(DenseDelta):
    """W' = W + W * (l r^T), entry by entry, with one r for each of the matrices stacked in W; l = 0 at the start."""

    def __init__(self, target: TargetLinear, generator: Generator | None) -> None:
        super().__init__()
        d_out, d_in = target.matrix_shape
        self.left = nn.Parameter(torch.zeros(len(target.is_adapted) * d_out))
        self.right = nn.Parameter(torch.empty(len(target.is_adapted), d_in))
        bound = math.sqrt(6 / d_in)  # Kaiming's, as in the authors' code
        self.right.data.uniform_(-bound, bound, generator=generator)

    def update(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        """Returns W * (l r^T)."""
        right = self.right.repeat_interleave(weight.shape[0] // self.right.shape[0], dim=0)
        return weight * (self.left[:, None] * right)


class ShiftedBias(nn.Module):
    """b' = b + f, with f = 0 at the start."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(size))

    def forward(self, bias: Float[Tensor, " d_out"]) -> Float[Tensor, " d_out"]:
        return bias + self.shift


def attach(model: Any, *, norms: bool, generator: Generator | None) -> None:
    """Rescales q, k, v, proj, fc1 and fc2 of every block by a residual of rank one, and shifts their biases.

    As in the authors' code, the patch embedding and all norms get a scale and a shift (`norms`), as in SSF. All of it
    merges into weights and biases.

    Raises:
        UserError: if the model has no such layers, or one without a bias.
    """
    validate.boolean("norms", norms)
    targets = target_linears(model, TARGETS, method="RLRR")
    others = [layer for layer in scaled_operations(model).values() if norms and not isinstance(layer, nn.Linear)]
    for layer in [*(target.layer for target in targets), *others]:
        check_bias(layer, model, method="RLRR")
    for target in targets:
        shift = ShiftedBias(target.layer.out_features)
        parametrize_weights(target.layer, weight=RescaledWeight(target, generator), bias=shift)
    for layer in others:
        scale = nn.Parameter(torch.ones(len(layer.bias)))
        append_scale_and_shift(layer, scale=scale, shift=nn.Parameter(torch.zeros(len(layer.bias))))
