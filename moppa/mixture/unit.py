"""The MoPPA unit: a low-rank bottleneck around an operator that solves physical equations on the grid of tokens.

Source: Wang et al., "Mixture of Physical Priors Adapter for Parameter-Efficient Fine-Tuning", arXiv 2412.02759. The
paper has no public code; docs/moppa.md lists what comes from the paper and what is our choice.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa.mixture.constants import FrequencyEmbedding
from moppa.mixture.operator import Bottleneck, Operator
from moppa.mixture.router import Router
from moppa.mixture.settings import MixtureSettings
from moppa.peft.blocks import BlockInfo
from moppa.utils.errors import UserError

Tokens = Float[Tensor, "batch tokens dim"]
GATE_BIAS = 1.278  # SiLU of it is 1, so that the gate starts open


class Unit(nn.Module):
    """delta(z) = s Up(Y), Y the mixture of the priors' solutions for X = Down(z) with weights from the router.

    With a gate, Y is replaced by LayerNorm(Y) * SiLU(G X + g). Without a bottleneck (`rank=None`), X = z and Up is
    diagonal. Up starts at zero, so training starts from the pretrained model.

    Args:
        block: The block that the unit serves: its width, grid and number of prefix tokens.
        settings: The settings of all units in the model.
        route_weight: Weight of this unit's route regularization in the loss.
        embedding: The frequency embedding of all units, if the settings have one.
        generator: Draws the initial values.
    """

    def __init__(
        self,
        block: BlockInfo,
        settings: MixtureSettings,
        *,
        route_weight: float,
        embedding: FrequencyEmbedding | None,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.grid, self.num_prefix_tokens, self.scale = block.grid, block.num_prefix_tokens, settings.scale
        dim, rank = block.dim, settings.rank
        width = dim if rank is None else rank
        self.down = None if rank is None else nn.Parameter(torch.empty(rank, dim))
        self.up = nn.Parameter(torch.zeros(dim) if rank is None else torch.zeros(dim, rank))
        if self.down is not None:
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5), generator=generator)  # as in LoRA and AdaptFormer
        self.operator = Operator(width, block.grid, settings, embedding=embedding, generator=generator)
        self.router = Router(
            width,
            len(settings.priors),
            is_dynamic=settings.router == "dynamic",
            rate=settings.physics_rate,
            penalty_weight=route_weight,
        )
        self.gate = Gate(width, generator=generator) if settings.gate else None
        self.noise = nn.Identity()  # of delta in training, if the trainer sets one

    def forward(self, z: Tokens) -> Tokens:
        y = self.mix(z if self.down is None else F.linear(z, self.down))
        return self.noise(y if self.down is None else F.linear(y, self.scale * self.up))

    def mix(self, x: Bottleneck) -> Bottleneck:
        """Returns Y for X, which is all between Down and Up."""
        if x.shape[1] != self.num_prefix_tokens + self.grid[0] * self.grid[1]:
            raise UserError(
                f"a MoPPA unit for {self.num_prefix_tokens} prefix tokens and a grid of "
                f"{self.grid[0]} x {self.grid[1]} got {x.shape[1]} tokens: "
                f"attach MoPPA to a model that was created for this image size"
            )
        y = self.operator(x, self.router(x), self.output_gain)
        return y if self.gate is None else self.gate(y, x)

    @property
    def has_products(self) -> bool:
        """Whether delta is s Up Y with Y from Down z, so that units of several matrices can share these products."""
        return self.down is not None and isinstance(self.noise, nn.Identity)

    @property
    def output_gain(self) -> Float[Tensor, " channels"] | None:
        """s Up if Up is diagonal: the operator's filters then include it."""
        return self.scale * self.up if self.down is None else None

    @property
    def is_pointwise(self) -> bool:
        """Whether the unit is a linear map of each token, the same for all: s Up Down."""
        return self.operator.priors == ("identity",) and self.gate is None

    def matrix(self) -> Float[Tensor, "dim dim"]:
        """Returns s Up Down, the map of a pointwise unit."""
        return torch.diag(self.scale * self.up) if self.down is None else self.scale * self.up @ self.down

    def merge(self) -> None:
        """Computes the filters once for evaluation, with the mixing weights if all images share them."""
        self.operator.precompute_filters(self.router.shared_weights(), self.output_gain)

    def diagnostics(self, *, is_last: bool) -> dict[str, Tensor]:
        """Returns the mixing weights, averaged over the steps since the last call, and the current constants.

        A constant per frequency is averaged over the frequencies. After the last step also S and the response to an
        impulse.
        """
        route, constants = self.router.pop_mean_weights(), self.operator.constants()
        source = constants.pop("source", None)
        values = {"route": route} | {name: value.view(-1, value.shape[-1]).mean(0) for name, value in constants.items()}
        if is_last and source is not None:
            values["source"] = source
        return {**values, "response": self.operator.response(route, self.output_gain)} if is_last else values


class Gate(nn.Module):
    """LayerNorm(Y) * SiLU(G X + g), with X the input of the operator and Y its output.

    Source: vHeat, arXiv 2405.16555, at full width. There g starts at 0; here at SiLU's 1.
    """

    def __init__(self, width: int, *, generator: torch.Generator | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.weight, self.bias = nn.Parameter(torch.empty(width, width)), nn.Parameter(torch.full((width,), GATE_BIAS))
        nn.init.trunc_normal_(self.weight, std=0.02, generator=generator)

    def forward(self, y: Bottleneck, x: Bottleneck) -> Bottleneck:
        return self.norm(y) * F.silu(F.linear(x, self.weight, self.bias))
