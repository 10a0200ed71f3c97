"""Share: Kaushik et al., "Shared LoRA Subspaces for almost Strict Continual Learning", arXiv 2602.06043.

The authors' code: github.com/ankit-vaidya19/Share.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta, check_rank
from moppa.peft.method import FinishedTensors
from moppa.peft.subspace import SubspaceFactor, lora_columns, principal_directions
from moppa.peft.targets import TargetLinear, target_linears
from moppa.utils import validate
from moppa.utils.seeds import generator_for


class ShareDelta(LowRankDelta):
    """W' = W + B A with A^T = alpha e_a + P_a Q_a and B = beta e_b + P_b Q_b for each adapted matrix; B = 0 at first.

    alpha and beta (d, k) are frozen; coefficients e (k, r) and temporary factors P (d, u) and Q (u, r) are trained.
    """

    def __init__(self, target: TargetLinear, downs: Sequence[Tensor], ups: Sequence[Tensor], **settings: Any) -> None:
        super().__init__()
        self.is_adapted, std = target.is_adapted, settings.pop("std")
        self.down = nn.ModuleList(SubspaceFactor(basis, std=std, **settings) for basis in downs)
        self.up = nn.ModuleList(SubspaceFactor(basis, std=0.0, **settings) for basis in ups)

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns A and B of each adapted matrix."""
        return [down().T for down in self.down], [up() for up in self.up]


def attach(
    model: nn.Module,
    *,
    rank: int,
    components: int,
    temporary: int,
    std: float,
    targets: Sequence[str],
    records: Sequence[str],
    basis_seed: int,
    finished: FinishedTensors,
    generator: torch.Generator | None,
) -> None:
    """Adds to each target (q, k, v, proj, fc1, fc2) of every block an update in the subspace of finished cells of LoRA.

    `records` names these cells as PATH@SHA256. Directions that they lack come from `basis_seed`.
    """
    validate.integer("components", components, minimum=1)
    validate.integer("temporary", temporary, minimum=0)
    validate.integer("basis_seed", basis_seed, minimum=0)
    validate.number("std", std, minimum=0, exclusive_minimum=True)
    linears = target_linears(model, targets, method="Share")
    tensors = finished(validate.texts("records", records))
    paths = {id(module): name for name, module in model.named_modules()}
    for target in linears:
        check_rank(rank, target.matrix_shape)
        bases: dict[str, list[Tensor]] = {"down": [], "up": []}
        for index in range(sum(target.is_adapted)):
            for factor, dim in zip(("up", "down"), target.matrix_shape, strict=True):
                name = f"{paths[id(target.layer)]}.parametrizations.weight.0.{factor}.{index}"
                columns, drawn = lora_columns(tensors, name, rank, dim), generator_for(basis_seed, name)
                bases[factor].append(principal_directions(columns, components, generator=drawn))
        settings = {"rank": rank, "temporary": temporary, "std": std, "generator": generator}
        parametrize_weights(target.layer, weight=ShareDelta(target, bases["down"], bases["up"], **settings))
