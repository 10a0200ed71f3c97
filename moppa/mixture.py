"""MoPPA: a unit before each block mixes heat, wave and Poisson solutions of the tokens' grid, in a low-rank bottleneck.

Source: Wang et al., "Mixture of Physical Priors Adapter for Parameter-Efficient Fine-Tuning", arXiv 2412.02759. The
paper has no public code; docs/moppa.md says which parts are the paper's and which are our reading.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa import check, physics
from moppa.attach import blocks_of, hold
from moppa.errors import UserError

POSITIONS = ("residual", "attn_input")
ROUTERS = ("dynamic", "static")

Tokens = Float[Tensor, "batch tokens dim"]


class Unit(nn.Module):
    """delta(z) = Up(a1 Heat(X) + a2 Wave(X) + a3 Poisson(X)), X = Down(z), a = softmax(W mean_tokens(X) + b).

    Prefix tokens (class, registers) lie on no grid and hold only the zero frequency, which heat and wave keep and
    Poisson removes: Y_prefix = (a1 + a2) X_prefix.
    """

    def __init__(
        self,
        *,
        dim: int,
        rank: int,
        grid: tuple[int, int],
        num_prefix_tokens: int,
        router: str,
        time: float,
        route_weight: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.grid, self.num_prefix_tokens, self.route_weight = grid, num_prefix_tokens, route_weight
        self.down = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, dim), generator=generator))
        self.up = nn.Parameter(torch.zeros(dim, rank))  # zero, so that the first step starts from the frozen model
        self.diffusivity = nn.Parameter(torch.full((rank,), inverse_softplus(1.0)))
        self.speed = nn.Parameter(torch.full((rank,), inverse_softplus(1.0)))
        self.time = nn.Parameter(torch.full((rank,), inverse_softplus(time)))
        self.source = nn.Parameter(torch.ones(grid))
        self.route_bias = nn.Parameter(torch.zeros(3))  # zero: the three priors start with a third each
        self.route = nn.Parameter(torch.zeros(3, rank)) if router == "dynamic" else None
        for name, constant in physics.basis(*grid, dtype=self.down.dtype, device=self.down.device)._asdict().items():
            self.register_buffer(f"basis_{name}", constant, persistent=False)
        self.weights: Tensor | None = None

    @property
    def basis(self) -> physics.Basis:
        """The constants of this unit's grid."""
        return physics.Basis(self.basis_rows, self.basis_columns, self.basis_laplace, self.basis_inverse_laplace)

    def forward(self, z: Tokens) -> Tokens:
        x = F.linear(z, self.down)
        weights = self.mixing_weights(x)
        if self.training:
            self.weights = weights
        prefix, grid = x.split([self.num_prefix_tokens, x.shape[1] - self.num_prefix_tokens], dim=1)
        k, c, t = (F.softplus(raw) for raw in (self.diffusivity, self.speed, self.time))
        on = self.basis
        y = physics.mix(
            grid.unflatten(1, self.grid),  # (batch, tokens, rank) -> (batch, H, W, rank)
            physics.heat_gain(on.laplace, k, t),
            physics.wave_gain(on.laplace, c, t),
            self.source,
            weights,
            on,
        )
        kept = weights[:, :2].sum(dim=1)[:, None, None]
        return F.linear(torch.cat([kept * prefix, y.flatten(1, 2)], dim=1), self.up)

    def mixing_weights(self, x: Float[Tensor, "batch tokens rank"]) -> Float[Tensor, "batch 3"]:
        """a = softmax(W mean_tokens(X) + b) per image; the static router has no W."""
        logits = self.route_bias.expand(len(x), 3)
        if self.route is not None:
            logits = logits + F.linear(x.mean(dim=1), self.route)
        return logits.softmax(dim=-1)

    def penalty(self, progress: float) -> Tensor:
        """lambda g KL(mean_batch(a) || uniform), g falling from 1 to 0 over the first half of the training."""
        assert self.weights is not None, "penalty() follows a forward in training mode"
        mean, self.weights = self.weights.mean(dim=0), None
        return self.route_weight * max(0.0, 1 - 2 * progress) * (mean * (3 * mean).log()).sum()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "weights": None}  # the weights of a forward cannot be copied, and belong to no copy


class BeforeBlock(nn.Module):
    """x <- x + delta(norm1(x)), then the untouched block."""

    def __init__(self, block: nn.Module, unit: Unit) -> None:
        super().__init__()
        self.block, self.unit = block, unit

    def forward(self, x: Tokens, **kwargs: Any) -> Tokens:
        return self.block(x + self.unit(self.block.norm1(x)), **kwargs)


class BeforeAttention(nn.Module):
    """Attention reads z + delta(z), z = norm1(x); the rest of the block is untouched."""

    def __init__(self, attention: nn.Module, unit: Unit) -> None:
        super().__init__()
        self.attention, self.unit = attention, unit

    def forward(self, z: Tokens, **kwargs: Any) -> Tokens:
        return self.attention(z + self.unit(z), **kwargs)


def attach(
    model: nn.Module,
    *,
    rank: int,
    position: str,
    router: str,
    time: float,
    route_weight: float,
    generator: torch.Generator | None,
) -> None:
    """Puts one unit before the attention of every block.

    `rank` is the width of the bottleneck; `position` is "residual" or "attn_input"; `router` is "dynamic" (weights
    per image) or "static"; `time` is where t starts; `route_weight` is the lambda of the route regularisation.
    """
    check.one_of("method.attach.position", position, POSITIONS)
    check.one_of("method.attach.router", router, ROUTERS)
    check.number("method.attach.time", time, low=0, above=True)
    check.number("method.attach.route_weight", route_weight, low=0)
    check.whole("method.attach.rank", rank, least=1)
    blocks = list(blocks_of(model))
    width: int = model.embed_dim  # type: ignore[assignment]  # nn.Module types its attributes too widely
    if rank > width:
        raise UserError(f"method.attach.rank={rank} is above the backbone's width {width}")
    for owner, name in blocks:
        unit = Unit(
            dim=width,
            rank=rank,
            grid=tuple(model.patch_embed.grid_size),
            num_prefix_tokens=model.num_prefix_tokens,
            router=router,
            time=time,
            route_weight=route_weight / len(blocks),
            generator=generator,
        )
        if position == "residual":
            hold(owner, name, lambda block, unit=unit: BeforeBlock(block, unit))
        else:
            hold(owner.get_submodule(name), "attn", lambda attention, unit=unit: BeforeAttention(attention, unit))


def inverse_softplus(value: float) -> float:
    """The number whose softplus is `value`."""
    return math.log(math.expm1(value))
