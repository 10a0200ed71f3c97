"""Bi-LoRA: a LoRA whose weights are one bit each. The paper is that of Bi-AdaptFormer, arXiv 2307.16867."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moppa.peft.binary import binarize, latent_factors
from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta
from moppa.peft.targets import TargetLinear, target_linears
from moppa.utils import validate


class BinaryDelta(LowRankDelta):
    """W' = W + s Up Down, both binary, for each adapted one of the matrices that are stacked in W."""

    def __init__(self, target: TargetLinear, *, rank: int, scale: float, generator: torch.Generator | None) -> None:
        super().__init__()
        d_out, d_in = target.matrix_shape
        self.is_adapted, self.scale = target.is_adapted, scale
        pairs = [latent_factors(d_in, rank, d_out, generator) for _ in range(sum(self.is_adapted))]
        self.down, self.up = (nn.ParameterList(matrices) for matrices in zip(*pairs, strict=True))

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns Down and s Up of each adapted matrix, binary."""
        return [binarize(down) for down in self.down], [self.scale * binarize(up) for up in self.up]


def attach(
    model: nn.Module, *, rank: int, scale: float, targets: Sequence[str], generator: torch.Generator | None
) -> None:
    """Adds to each target (q, k, v, proj, fc1, fc2) of every block a binary update of rank `rank`.

    The rank may exceed that of the weight, since more binary terms give more levels. The authors' code has dropout
    between the two factors, which a weight cannot have.
    """
    validate.integer("rank", rank, minimum=1)
    validate.number("scale", scale, minimum=0, exclusive_minimum=True)
    for target in target_linears(model, targets, method="Bi-LoRA"):
        parametrize_weights(target.layer, weight=BinaryDelta(target, rank=rank, scale=scale, generator=generator))
