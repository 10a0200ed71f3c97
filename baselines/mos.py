"""MoS: Wang et al., "MoS: Unleashing Parameter Efficiency of Low-Rank Adaptation with Mixture of Shards".

ICLR 2025, arXiv 2410.00938; the authors' code: github.com/Forence1999/MoS.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta
from moppa.peft.shards import Pools, Selection, check_sizes
from moppa.peft.targets import TARGETS, target_linears
from moppa.utils import validate
from moppa.utils.seeds import generator_for


class MoSDelta(LowRankDelta):
    """W' = W + (alpha / r) B A, for each adapted one of the matrices stacked in W, with A and B from pools of shards.

    A and B have separate indices (pair dissociation), a vector consists of several shards (vector sharding),
    and some shards belong to one layer (shard privatization).
    """

    def __init__(
        self, is_adapted: tuple[bool, ...], selections: Sequence[Selection], *, scale: float, dropout: float
    ) -> None:
        super().__init__()
        self.is_adapted, self.scale, self.dropout = is_adapted, scale, dropout
        self.selections = nn.ModuleList(selections)

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns A and (alpha / r) B of each adapted matrix."""
        downs, ups = zip(*(selection() for selection in self.selections), strict=True)
        return list(downs), [self.scale * up for up in ups]


def attach(
    model: nn.Module,
    *,
    rank: int,
    budget_rank: int,
    private_rank: int,
    num_shards: int,
    alpha: float,
    targets: Sequence[str],
    routing_seed: int,
    dropout: float,
    generator: torch.Generator | None,
) -> None:
    """Adds to each target (q, k, v, proj, fc1, fc2) of every block an update of rank `rank`, scaled by alpha / rank.

    The pools of a target, shared by its layers of one shape, are as large as LoRA's factors of rank `budget_rank`;
    `private_rank` of that is each layer's own. `num_shards` is l, the shards in a vector. Only `routing_seed` decides
    the indices, which are never saved.
    """
    validate.number("alpha", alpha, minimum=0, exclusive_minimum=True)
    validate.integer("routing_seed", routing_seed, minimum=0)
    validate.number("dropout", dropout, minimum=0, maximum=0.9)
    for target in target_linears(model, targets, method="MoS"):
        check_sizes(target.matrix_shape, rank, budget_rank, private_rank, num_shards)
    selections: dict[nn.Module, dict[str, Selection]] = {}
    for name in targets:
        linears = target_linears(model, [name], method="MoS")
        for shape in sorted({target.matrix_shape for target in linears}):
            sharing = [target.layer for target in linears if target.matrix_shape == shape]
            pools = Pools(
                shape,
                num_layers=len(sharing),
                budget_rank=budget_rank,
                private_rank=private_rank,
                num_shards=num_shards,
                generator=generator,
            )
            routing = generator_for(routing_seed, name, *shape)
            for index, layer in enumerate(sharing):
                down, up = (pools.select(index, rank, routing) for _ in ("A", "B"))
                selections.setdefault(layer, {})[name] = Selection(pools, down, up, is_owner=index == 0)
    for target in target_linears(model, targets, method="MoS"):
        of_layer = [selections[target.layer][name] for name in TARGETS if name in selections[target.layer]]
        delta = MoSDelta(target.is_adapted, of_layer, scale=alpha / rank, dropout=dropout)
        parametrize_weights(target.layer, weight=delta)
