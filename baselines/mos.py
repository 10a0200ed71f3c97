"""MoS: Wang et al., "MoS: Unleashing Parameter Efficiency of Low-Rank Adaptation with Mixture of Shards".

ICLR 2025, arXiv 2410.00938; the authors' code: github.com/Forence1999/MoS.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta, check_rank
from moppa.peft.targets import target_linears
from moppa.utils import validate
from moppa.utils.errors import SettingError
from moppa.utils.seeds import generator_for


class Pools(nn.Module):
    """The shards of the layers of one linear type: (n, d_in / l) for A and (n, d_out / l) for B, which starts at 0.

    The shards that all layers share come first, then each layer's own; n is l x `budget_rank` for each layer.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        num_layers: int,
        budget_rank: int,
        private_rank: int,
        num_shards: int,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        (d_out, d_in), size = shape, num_layers * budget_rank * num_shards
        self.num_shards, self.num_private = num_shards, private_rank * num_shards
        self.num_shared = size - num_layers * self.num_private
        self.down = nn.Parameter(torch.empty(size, d_in // num_shards))
        self.up = nn.Parameter(torch.zeros(size, d_out // num_shards))
        nn.init.uniform_(self.down, -(d_in**-0.5), d_in**-0.5, generator=generator)  # as LoRA draws a whole row

    def select(self, layer: int, rank: int, generator: torch.Generator) -> Int[Tensor, "rank shards"]:
        """Returns the indices of a layer's own shards, then of shared ones in random order.

        A shared shard is repeated only after all have been used. The authors' code cannot repeat shards, and needs a
        pool that is large enough.
        """
        first, count = self.num_shared + layer * self.num_private, rank * self.num_shards
        indices = list(range(first, first + self.num_private))
        while len(indices) < count:
            indices += torch.randperm(self.num_shared, generator=generator, device="cpu").tolist()
        return torch.tensor(indices[:count], device="cpu").view(rank, -1)  # real also under torch's meta device


class MoSDelta(LowRankDelta):
    """W' = W + (alpha / r) B A; each row of A and column of B is l shards, which fixed indices select from the pools.

    A and B have separate indices (pair dissociation), a vector consists of several shards (vector sharding),
    and some shards belong to one layer (shard privatization).
    """

    def __init__(
        self, is_adapted: tuple[bool, ...], pools: Pools, *, scale: float, indices: Sequence[Tensor], is_owner: bool
    ) -> None:
        super().__init__()
        self.is_adapted, self.scale = is_adapted, scale
        if is_owner:
            self.pools = pools
        self.shared = (pools,)  # a tuple hides them from nn.Module, so that a parameter has one name, the owner's
        for name, index in zip(("indices_down", "indices_up"), indices, strict=True):
            self.register_buffer(name, index, persistent=False)

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns A and (alpha / r) B."""
        (pools,) = self.shared
        down, up = pools.down[self.get_buffer("indices_down")], pools.up[self.get_buffer("indices_up")]
        return [down.flatten(1)], [self.scale * up.flatten(1).T]  # (r, l, d / l) to (r, d)


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
    generator: torch.Generator | None,
) -> None:
    """Adds to each target (q, k, v, proj, fc1, fc2) of every block an update of rank `rank`, scaled by alpha / rank.

    The pools of a target, shared by its layers of one shape, are as large as LoRA's factors of rank `budget_rank`;
    `private_rank` of that is each layer's own. `num_shards` is l, the shards in a vector. Only `routing_seed` decides
    the indices, which are never saved.
    """
    validate.number("alpha", alpha, minimum=0, exclusive_minimum=True)
    validate.integer("routing_seed", routing_seed, minimum=0)
    for target in target_linears(model, targets, method="MoS"):
        check_sizes(target.matrix_shape, rank, budget_rank, private_rank, num_shards)
    for name in targets:
        linears = target_linears(model, [name], method="MoS")
        for shape in sorted({target.matrix_shape for target in linears}):
            sharing = [target for target in linears if target.matrix_shape == shape]
            pools = Pools(
                shape,
                num_layers=len(sharing),
                budget_rank=budget_rank,
                private_rank=private_rank,
                num_shards=num_shards,
                generator=generator,
            )
            routing = generator_for(routing_seed, name, *shape)
            for layer, target in enumerate(sharing):
                indices = [pools.select(layer, rank, routing) for _ in ("A", "B")]
                delta = MoSDelta(target.is_adapted, pools, scale=alpha / rank, indices=indices, is_owner=layer == 0)
                parametrize_weights(target.layer, weight=delta)


def check_sizes(shape: tuple[int, int], rank: int, budget_rank: int, private_rank: int, num_shards: int) -> None:
    """Raises `SettingError` if the sizes do not fit a d_out x d_in weight or each other."""
    check_rank(rank, shape)
    validate.integer("budget_rank", budget_rank, minimum=1)
    validate.integer("private_rank", private_rank, minimum=0)
    validate.integer("num_shards", num_shards, minimum=1)
    if private_rank > min(rank, budget_rank) or private_rank == budget_rank < rank:
        raise SettingError(
            "private_rank",
            f"={private_rank}: it is a part of rank={rank} and of budget_rank={budget_rank}, and must leave some of "
            f"the budget to be shared if the rank is above the budget; choose a smaller one",
        )
    if any(side % num_shards for side in shape):
        raise SettingError(
            "num_shards",
            f"={num_shards} does not divide the sides of a {shape[0]} x {shape[1]} weight; "
            f"choose a divisor of {math.gcd(*shape)}",
        )
