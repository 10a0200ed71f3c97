"""MoS: Wang et al., "MoS: Unleashing Parameter Efficiency of Low-Rank Adaptation with Mixture of Shards".

ICLR 2025, arXiv 2410.00938; the authors' code: github.com/Forence1999/MoS.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta, checked_rank, target_linears
from moppa.utils import validate
from moppa.utils.errors import UserError
from moppa.utils.seeds import generator_for


class Pools(nn.Module):
    """The shards of the layers of one linear type: (n, d_in / l) for A and (n, d_out / l) for B, which starts at 0.

    First those that all layers share, then each layer's own; n is l x `budget_rank` for each layer.
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
        # zero, so that the first step starts from the frozen model
        self.up = nn.Parameter(torch.zeros(size, d_out // num_shards))
        nn.init.uniform_(self.down, -(d_in**-0.5), d_in**-0.5, generator=generator)  # as LoRA draws a whole row

    def picks(self, layer: int, rank: int, routing: torch.Generator) -> Int[Tensor, "rank shards"]:
        """A layer's own shards, then shared ones at random, none again before all have been picked.

        The authors' code cannot pick again: it needs a pool that is large enough.
        """
        first, count = self.num_shared + layer * self.num_private, rank * self.num_shards
        indices = list(range(first, first + self.num_private))
        while len(indices) < count:
            indices += torch.randperm(self.num_shared, generator=routing, device="cpu").tolist()
        return torch.tensor(indices[:count], device="cpu").view(rank, -1)  # real also under torch's meta device


class ShardedDelta(LowRankDelta):
    """W' = W + (alpha / r) B A; each row of A and each column of B is l shards that fixed indices pick from the pools.

    Section 3: A and B have indices of their own (pair dissociation), a vector is put together from shards of several
    (vector sharding), and some shards are picked by this layer alone (shard privatisation).
    """

    def __init__(
        self, parts: tuple[bool, ...], pools: Pools, *, scale: float, picks: Sequence[Tensor], is_owner: bool
    ) -> None:
        super().__init__()
        self.parts, self.scale = parts, scale
        if is_owner:
            self.pools = pools
        self.shared = (pools,)  # a tuple hides them from nn.Module, so that a parameter has one name, the owner's
        for name, indices in zip(("picks_down", "picks_up"), picks, strict=True):
            self.register_buffer(name, indices, persistent=False)

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """A and (alpha / r) B."""
        (pools,) = self.shared
        down, up = pools.down[self.picks_down].flatten(1), pools.up[self.picks_up].flatten(1)  # (r, l, d / l) to (r, d)
        return [down], [self.scale * up.T]


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
    """Gives each target (q, k, v, proj, fc1, fc2) of every block an update of rank `rank`, scaled by alpha / rank.

    The pools of a target, shared by its layers of one shape, are as large as LoRA's factors of rank `budget_rank`;
    `private_rank` of that is each layer's own. `num_shards` is l, the shards in a vector. `routing_seed` alone decides
    the indices, which are never saved.
    """
    validate.number("method.attach.alpha", alpha, minimum=0, exclusive_minimum=True)
    validate.integer("method.attach.routing_seed", routing_seed, minimum=0)
    for adapted in target_linears(model, targets, method="MoS"):
        check_sizes(adapted.part_shape, rank, budget_rank, private_rank, num_shards)
    sizes = {"budget_rank": budget_rank, "private_rank": private_rank, "num_shards": num_shards}
    for target in targets:
        linears = target_linears(model, [target], method="MoS")
        for shape in sorted({adapted.part_shape for adapted in linears}):
            sharing = [adapted for adapted in linears if adapted.part_shape == shape]
            pools = Pools(shape, num_layers=len(sharing), generator=generator, **sizes)
            routing = generator_for(routing_seed, target, *shape)
            for layer, adapted in enumerate(sharing):
                picks = [pools.picks(layer, rank, routing) for _ in ("A", "B")]
                delta = ShardedDelta(adapted.parts, pools, scale=alpha / rank, picks=picks, is_owner=layer == 0)
                parametrize_weights(adapted.layer, weight=delta)


def check_sizes(shape: tuple[int, int], rank: int, budget_rank: int, private_rank: int, num_shards: int) -> None:
    """Raises UserError where the sizes do not fit a d_out x d_in weight or each other."""
    checked_rank(rank, shape)
    validate.integer("method.attach.budget_rank", budget_rank, minimum=1)
    validate.integer("method.attach.private_rank", private_rank, minimum=0)
    validate.integer("method.attach.num_shards", num_shards, minimum=1)
    if private_rank > min(rank, budget_rank) or private_rank == budget_rank < rank:
        raise UserError(
            f"method.attach.private_rank={private_rank}: it is a part of rank={rank} and of budget_rank={budget_rank}, "
            f"and must leave some of the budget to be shared where the rank is above it; choose a smaller one"
        )
    if any(side % num_shards for side in shape):
        raise UserError(
            f"method.attach.num_shards={num_shards} does not divide the sides of a {shape[0]} x {shape[1]} weight; "
            f"choose a divisor of {math.gcd(*shape)}"
        )
