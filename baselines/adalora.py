"""AdaLoRA: Zhang et al., "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning".

ICLR 2023, arXiv 2303.10512; the authors' code: github.com/QingruZhang/AdaLoRA.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import check_rank
from moppa.peft.rank_budget import RankBudget, TripletDelta
from moppa.peft.targets import TargetLinear, target_linears
from moppa.utils import validate
from moppa.utils.errors import SettingError


class AdaLoRADelta(TripletDelta):
    """W' = W + (alpha / r) P diag(lambda) Q for each adapted matrix, with lambda = 0 at the start.

    r is the initial rank, also after some lambda are pruned. P and Q are drawn with a standard deviation of 0.02.
    """

    def __init__(self, target: TargetLinear, *, rank: int, alpha: float, generator: torch.Generator | None) -> None:
        super().__init__()
        d_out, d_in = target.matrix_shape
        self.is_adapted, self.scale = target.is_adapted, alpha / (rank + 1e-5)  # 1e-5 as in the authors' code
        num_adapted = sum(target.is_adapted)
        self.down = nn.ParameterList(torch.empty(rank, d_in) for _ in range(num_adapted))
        self.up = nn.ParameterList(torch.empty(d_out, rank) for _ in range(num_adapted))
        self.values = nn.ParameterList(torch.zeros(rank, 1) for _ in range(num_adapted))
        for factor in (*self.down, *self.up):
            nn.init.normal_(factor, std=0.02, generator=generator)

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns diag(lambda) Q and (alpha / r) P of each adapted matrix."""
        return [values * down for down, _, values in self.triplets()], [self.scale * up for up in self.up]


def attach(
    model: nn.Module,
    *,
    initial_rank: int,
    target_rank: int,
    alpha: float,
    targets: Sequence[str],
    warmup: float,
    final: float,
    beta1: float,
    beta2: float,
    orthogonality: float,
    generator: torch.Generator | None,
) -> None:
    """Adds an update of rank `initial_rank` to each target (q, k, v, proj, fc1, fc2) of every block.

    During the training the ranks are pruned until their mean over all matrices is `target_rank`: see `RankBudget`.
    """
    validate.integer("initial_rank", initial_rank, minimum=1)
    if validate.integer("target_rank", target_rank, minimum=1) > initial_rank:
        raise SettingError("target_rank", f"={target_rank} is above initial_rank={initial_rank}: choose a lower one")
    validate.number("alpha", alpha, minimum=0, exclusive_minimum=True)
    linears = target_linears(model, targets, method="AdaLoRA")
    for target in linears:
        check_rank(initial_rank, target.matrix_shape)
    deltas = [AdaLoRADelta(target, rank=initial_rank, alpha=alpha, generator=generator) for target in linears]
    deltas[-1].budget = RankBudget(
        deltas,
        target_rank=target_rank,
        warmup=warmup,
        final=final,
        beta1=beta1,
        beta2=beta2,
        orthogonality=orthogonality,
    )
    for target, delta in zip(linears, deltas, strict=True):
        parametrize_weights(target.layer, weight=delta)
