"""DoRA: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024, arXiv 2402.09353."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.inject import DirectLinear, parametrize_weights
from moppa.peft.low_rank import TargetLinear, checked_rank, low_rank_linear, target_linears
from moppa.utils import validate


class DecomposedDelta(nn.Module):
    """W' = m (W + (alpha / r) B A) / ||W + (alpha / r) B A||, equation 5, with m = ||W|| and B = 0 at the start.

    The norm is one per output, over the inputs, as in the authors' code and in HF peft. Section 4.3: the norm below
    the line is a constant to the gradient. m is learned as its distance from ||W||, so that m / ||W|| is exactly 1 at
    the start on every device; weight decay then draws m to ||W|| and not to 0 (the authors train without decay).

    W may be several matrices stacked by rows, as timm's fused qkv is: each adapted one has its own A, B and m.
    """

    def __init__(self, adapted: TargetLinear, *, rank: int, alpha: float, generator: torch.Generator | None) -> None:
        super().__init__()
        d_out, d_in = adapted.part_shape
        checked_rank(rank, adapted.part_shape)
        self.parts, self.scale = adapted.parts, alpha / rank
        count = sum(self.parts)
        self.down = nn.ParameterList(torch.empty(rank, d_in) for _ in range(count))
        # zero, so that the first step starts from the frozen model
        self.up = nn.ParameterList(torch.zeros(d_out, rank) for _ in range(count))
        self.magnitude = nn.ParameterList(torch.zeros(d_out, 1) for _ in range(count))
        for down in self.down:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)  # as in LoRA

    def forward(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        learned = zip(self.magnitude, self.up, self.down, strict=True)
        rows = zip(weight.chunk(len(self.parts)), self.parts, strict=True)
        return torch.cat([self.decomposed(part, *next(learned)) if is_adapted else part for part, is_adapted in rows])

    def applied(self, layer: DirectLinear, x: Tensor) -> Tensor:
        """g (W x + (alpha / r) B A x) + b with g = m / ||W + (alpha / r) B A||, and g = 1 where nothing is adapted."""
        learned = zip(self.magnitude, self.up, self.down, strict=True)
        weight, bias = layer.pretrained("weight"), layer.pretrained("bias")
        gains = [
            self.gain(part, *next(learned)) if is_adapted else part.new_ones(len(part), 1)
            for part, is_adapted in zip(weight.chunk(len(self.parts)), self.parts, strict=True)
        ]
        y = low_rank_linear(x, weight, None, self.parts, list(self.down), [self.scale * up for up in self.up])
        gain = torch.cat(gains).flatten()
        return gain * y if bias is None else torch.addcmul(bias, gain, y)

    def gain(self, weight: Tensor, change: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """m / ||W + (alpha / r) B A|| of one of the stacked matrices, the norm a constant: equation 11."""
        with torch.no_grad():
            magnitude, norm = norm_of(weight), norm_of(torch.addmm(weight, up, down, alpha=self.scale))
        return (magnitude + change) / norm

    def decomposed(self, weight: Tensor, change: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """Equation 5 for one of the stacked matrices, with m = ||W|| + change."""
        return self.gain(weight, change, up, down) * (weight + self.scale * up @ down)


def norm_of(weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out 1"]:
    """The norm of what leads to each output."""
    return torch.linalg.vector_norm(weight, dim=1, keepdim=True)


def attach(
    model: nn.Module, *, rank: int, alpha: float, targets: Sequence[str], generator: torch.Generator | None
) -> None:
    """Gives each target (q, k, v, proj, fc1, fc2) of every block a magnitude and a direction of rank `rank`."""
    validate.number("method.attach.alpha", alpha, minimum=0, exclusive_minimum=True)
    for adapted in target_linears(model, targets, method="DoRA"):
        parametrize_weights(adapted.layer, weight=DecomposedDelta(adapted, rank=rank, alpha=alpha, generator=generator))
