"""SNELL: Shen et al., "Expanding Sparse Tuning for Low Memory Usage", NeurIPS 2024, arXiv 2411.01800."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moppa.peft.inject import ParametrizedLinear, parametrize_weights
from moppa.peft.low_rank import add_updates, is_autocast_enabled
from moppa.peft.recomputed import RecomputedLinear
from moppa.peft.sparse import order_statistic
from moppa.peft.targets import TargetLinear, target_linears
from moppa.utils import validate
from moppa.utils.errors import SettingError


class SNELLDelta(nn.Module):
    """W' = W + D |D| where |D| is above its quantile `sparsity`, with D = scale (dist(b, a) - dist(b', a')).

    b are points of outputs, a of inputs. The factor |D| has no gradient; with sparsity 0 it is left out.
    """

    def __init__(self, target: TargetLinear, *, rank: int, scale: float, sparsity: float, generator: Any) -> None:
        super().__init__()
        self.is_adapted, self.scale, self.sparsity = target.is_adapted, scale, sparsity
        count, (d_out, d_in) = sum(target.is_adapted), target.matrix_shape
        self.inputs = nn.ParameterList(torch.empty(2, d_in, rank // 2) for _ in range(count))
        self.outputs = nn.ParameterList(torch.empty(2, d_out, rank // 2) for _ in range(count))
        for points in (*self.inputs, *self.outputs):
            nn.init.kaiming_uniform_(points, a=math.sqrt(5), generator=generator)

    def kernels(self, *points: Tensor) -> list[Tensor]:
        """Returns D (d_out, d_in) of each adapted matrix, at least in float32, from all b and then all a."""
        dtype, count = torch.promote_types(points[0].dtype, torch.float32), len(points) // 2  # bfloat16 has no cdist
        distances = [torch.cdist(b.to(dtype), a.to(dtype)) for b, a in zip(points[:count], points[count:], strict=True)]
        return [self.scale * (first - second) for first, second in distances]

    @torch.no_grad()
    def thresholds(self) -> list[Tensor]:
        """Returns a value of each |D|, below which a fraction `sparsity` lies, or nothing if that is 0."""
        kernels = self.kernels(*self.outputs, *self.inputs)
        return [order_statistic(kernel.abs(), self.sparsity) for kernel in kernels if self.sparsity > 0]

    def updated(self, weight: Tensor, thresholds: Sequence[Tensor], *points: Tensor) -> Tensor:
        """Returns W'."""
        updates = self.kernels(*points)
        if thresholds:
            updates = [d * d.detach().abs().where(d.abs() > t, 0) for d, t in zip(updates, thresholds, strict=True)]
        return add_updates(weight, self.is_adapted, [update.to(weight.dtype) for update in updates])

    def forward(self, weight: Tensor) -> Tensor:
        return self.updated(weight, self.thresholds(), *self.outputs, *self.inputs)

    def layer_output(self, layer: ParametrizedLinear, x: Tensor) -> Tensor:
        """Returns W' x + b. In float32 a training step keeps no matrix of the size of W, and computes W' twice."""
        weight, bias = layer.pretrained("weight"), layer.pretrained("bias")
        if is_autocast_enabled(x.device.type):  # in bfloat16 W + update would lose a small update
            return layer.pretrained_output(x) + F.linear(x, self(torch.zeros_like(weight)))
        updated = partial(self.updated, weight, self.thresholds())
        return RecomputedLinear.apply(x, bias, updated, *self.outputs, *self.inputs)


def attach(
    model: nn.Module, *, targets: Sequence[str], rank: int, scale: float, sparsity: float, generator: Any
) -> None:
    """Adds a sparse update to each target (q, k, v, proj, fc1, fc2) of every block; each head has width `rank` / 2.

    All points are drawn, as in the authors' code: with the heads equal, |D| = 0 would be the gradient's factor.
    """
    if validate.integer("rank", rank, minimum=2) % 2:
        raise SettingError("rank", f"={rank} is divided between two heads: choose an even number")
    validate.number("scale", scale, minimum=0, exclusive_minimum=True)
    validate.number("sparsity", sparsity, minimum=0, maximum=0.9999)
    for target in target_linears(model, targets, method="SNELL"):
        delta = SNELLDelta(target, rank=rank, scale=scale, sparsity=sparsity, generator=generator)
        parametrize_weights(target.layer, weight=delta)
