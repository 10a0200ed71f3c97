"""LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa import check
from moppa.linears import Adapted, add_to_parts, checked_rank, linears_of
from moppa.touch import reweight


class LowRankDelta(nn.Module):
    """W' = W + (alpha / r) B A, section 4.1, with A: (r, d_in), B: (d_out, r) and B = 0 at the start.

    W may be several matrices stacked by rows, as timm's fused qkv is: each adapted one has its own A and B, the
    others pass unchanged.
    """

    def __init__(self, adapted: Adapted, *, rank: int, alpha: float, generator: torch.Generator | None) -> None:
        super().__init__()
        d_out, d_in = adapted.part_shape
        checked_rank(rank, adapted.part_shape)
        self.parts, self.scale = adapted.parts, alpha / rank
        self.down = nn.ParameterList(torch.empty(rank, d_in) for _ in range(sum(self.parts)))
        # zero, so that the first step starts from the frozen model
        self.up = nn.ParameterList(torch.zeros(d_out, rank) for _ in range(sum(self.parts)))
        for down in self.down:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)  # as in the authors' code

    def forward(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        factors = zip(self.up, self.down, strict=True)
        return add_to_parts(weight, self.parts, [self.scale * up @ down for up, down in factors])


def attach(
    model: nn.Module, *, rank: int, alpha: float, targets: Sequence[str], generator: torch.Generator | None
) -> None:
    """Gives each target (q, k, v, proj, fc1, fc2) of every block an update of rank `rank`, scaled by alpha / rank."""
    check.number("method.attach.alpha", alpha, low=0, above=True)
    for adapted in linears_of(model, targets, method="LoRA"):
        reweight(adapted.layer, LowRankDelta(adapted, rank=rank, alpha=alpha, generator=generator))
