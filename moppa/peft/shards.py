"""Pools of shards that the layers of one linear type share, from which each layer's factors are assembled: MoS.

Wang et al., "MoS: Unleashing Parameter Efficiency of Low-Rank Adaptation with Mixture of Shards", ICLR 2025,
arXiv 2410.00938.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from moppa.peft.low_rank import check_rank
from moppa.utils import validate
from moppa.utils.errors import SettingError


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


class Selection(nn.Module):
    """The shards of one layer: each row of A and each column of B is l shards, which fixed indices select."""

    def __init__(self, pools: Pools, indices_down: Tensor, indices_up: Tensor, *, is_owner: bool) -> None:
        super().__init__()
        if is_owner:
            self.pools = pools
        self.shared = (pools,)  # a tuple hides them from nn.Module, so that a parameter has one name, the owner's
        self.register_buffer("indices_down", indices_down, persistent=False)
        self.register_buffer("indices_up", indices_up, persistent=False)

    def forward(self) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]:
        """Returns A and B."""
        (pools,) = self.shared
        down, up = pools.down[self.get_buffer("indices_down")], pools.up[self.get_buffer("indices_up")]
        return down.flatten(1), up.flatten(1).T  # (r, l, d / l) to (r, d)


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
