"""NOLA: Koohpayegani et al., "NOLA: Compressing LoRA using Linear Combination of Random Basis".

ICLR 2024, arXiv 2310.02556; the authors' code: github.com/UCDvision/NOLA.
"""

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta, check_rank
from moppa.peft.targets import TargetLinear, target_linears
from moppa.utils import validate
from moppa.utils.seeds import generator_for


class Bases(nn.Module):
    """The frozen random A_i and B_j: one set for each width, drawn from a separate seed and shared by all layers.

    A set is (k, r x width), uniform within 1 / sqrt(r x width), as in the authors' code for ViT. It is never saved: the
    seed in the config reproduces it.
    """

    def __init__(
        self, *, widths_in: Collection[int], widths_out: Collection[int], rank: int, num_bases: int, seed: int
    ) -> None:
        super().__init__()
        self.rank, self.num_bases = rank, num_bases
        for side, widths in (("down", widths_in), ("up", widths_out)):
            for width in widths:
                basis = torch.empty(num_bases, rank * width)
                nn.init.kaiming_uniform_(basis, a=math.sqrt(5), generator=generator_for(seed, side, width))
                self.register_buffer(f"{side}_{width}", basis, persistent=False)


class NOLADelta(LowRankDelta):
    """W' = W + (scale / r) B A with A = sum_i alpha_i A_i and B = sum_j beta_j B_j; beta = 0 at the start.

    Only alpha and beta are learned, for each adapted one of the matrices stacked in W. The authors' code starts all of
    them at 1 / k, which is an update from the first step on.
    """

    def __init__(self, target: TargetLinear, bases: Bases, *, scale: float, generator: torch.Generator | None) -> None:
        super().__init__()
        self.is_adapted, (self.d_out, self.d_in) = target.is_adapted, target.matrix_shape
        self.bases, self.scale = bases, scale / bases.rank
        self.alpha = nn.Parameter(torch.empty(sum(self.is_adapted), bases.num_bases))
        self.beta = nn.Parameter(torch.zeros(sum(self.is_adapted), bases.num_bases))
        nn.init.normal_(self.alpha, std=bases.num_bases**-0.5, generator=generator)  # A is then as large as one A_i

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns A and (scale / r) B of each adapted matrix."""
        down = self.alpha @ self.bases.get_buffer(f"down_{self.d_in}")
        up = (self.scale * self.beta) @ self.bases.get_buffer(f"up_{self.d_out}")
        return list(down.unflatten(1, (-1, self.d_in))), list(up.unflatten(1, (self.d_out, -1)))


def attach(
    model: nn.Module,
    *,
    rank: int,
    num_bases: int,
    scale: float,
    targets: Sequence[str],
    bases_seed: int,
    generator: torch.Generator | None,
) -> None:
    """Adds to each target (q, k, v, proj, fc1, fc2) of every block an update of rank `rank`, scaled by scale / rank.

    `num_bases` is k, for A and for B. Only `bases_seed` decides the bases; the generator draws alpha.
    """
    validate.integer("num_bases", num_bases, minimum=1)
    validate.integer("bases_seed", bases_seed, minimum=0)
    validate.number("scale", scale, minimum=0, exclusive_minimum=True)
    linears = target_linears(model, targets, method="NOLA")
    widths_out, widths_in = ({target.matrix_shape[side] for target in linears} for side in (0, 1))
    check_rank(rank, (min(widths_out), min(widths_in)))
    bases = Bases(widths_in=widths_in, widths_out=widths_out, rank=rank, num_bases=num_bases, seed=bases_seed)
    for target in linears:
        parametrize_weights(target.layer, weight=NOLADelta(target, bases, scale=scale, generator=generator))
