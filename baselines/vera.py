"""VeRA: Kopiczko et al., "VeRA: Vector-based Random Matrix Adaptation", ICLR 2024, arXiv 2310.11454."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta
from moppa.peft.targets import TargetLinear, target_linears
from moppa.utils import validate
from moppa.utils.seeds import generator_for


class Projections(nn.Module):
    """The frozen random A (r, d_in) and B (d_out, r) that all layers share, uniform as in Kaiming's initialization.

    They have the largest widths of all layers; a smaller layer uses their first columns and rows, as in HF peft. They
    are never saved: the seed in the config reproduces them.
    """

    def __init__(self, *, d_in: int, d_out: int, rank: int, seed: int) -> None:
        super().__init__()
        for name, shape in (("down", (rank, d_in)), ("up", (d_out, rank))):
            matrix = nn.init.kaiming_uniform_(torch.empty(shape), generator=generator_for(seed, name))
            self.register_buffer(name, matrix, persistent=False)


class VeRADelta(LowRankDelta):
    """W' = W + diag(b) B diag(d) A for each adapted one of the matrices stacked in W; b = 0 at the start."""

    def __init__(self, target: TargetLinear, projections: Projections, *, rank: int, d_initial: float) -> None:
        super().__init__()
        self.is_adapted, (self.d_out, self.d_in) = target.is_adapted, target.matrix_shape
        self.projections = projections
        self.b = nn.ParameterList(torch.zeros(self.d_out) for _ in range(sum(self.is_adapted)))
        self.d = nn.ParameterList(torch.full((rank,), float(d_initial)) for _ in range(sum(self.is_adapted)))

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns diag(d) A and diag(b) B of each adapted matrix."""
        down = self.projections.get_buffer("down")[:, : self.d_in]
        up = self.projections.get_buffer("up")[: self.d_out]
        return [d[:, None] * down for d in self.d], [b[:, None] * up for b in self.b]


def attach(model: nn.Module, *, rank: int, d_initial: float, targets: Sequence[str], projections_seed: int) -> None:
    """Adds diag(b) B diag(d) A to each target (q, k, v, proj, fc1, fc2) of every block, with `rank` entries in d.

    d starts at `d_initial`. Only `projections_seed` decides A and B, which may have a rank above their widths.
    """
    validate.number("d_initial", d_initial, minimum=0, exclusive_minimum=True)
    validate.integer("projections_seed", projections_seed, minimum=0)
    linears = target_linears(model, targets, method="VeRA")
    d_out, d_in = (max(target.matrix_shape[side] for target in linears) for side in (0, 1))
    validate.integer("rank", rank, minimum=1)
    projections = Projections(d_in=d_in, d_out=d_out, rank=rank, seed=projections_seed)
    for target in linears:
        delta = VeRADelta(target, projections, rank=rank, d_initial=d_initial)
        parametrize_weights(target.layer, weight=delta)
