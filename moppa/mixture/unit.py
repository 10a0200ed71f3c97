"""MoPPA: a unit before each block mixes heat, wave and Poisson solutions of the tokens' grid, in a low-rank bottleneck.

Source: Wang et al., "Mixture of Physical Priors Adapter for Parameter-Efficient Fine-Tuning", arXiv 2412.02759. The
paper has no public code; docs/moppa.md says which parts are the paper's and which are our reading.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa.mixture import physics
from moppa.mixture.fused import MixtureSolve
from moppa.peft.blocks import BlockInfo, Layout, find_blocks, from_tokens, to_tokens
from moppa.peft.inject import wrap_module
from moppa.utils import validate
from moppa.utils.errors import UserError
from moppa.utils.matmul import linear

PRIORS = ("heat", "wave", "poisson")
POSITIONS = ("residual", "attn_input")
ROUTERS = ("dynamic", "static")
POISSON_GAINS = ("exact", "unit")

Tokens = Float[Tensor, "batch tokens dim"]
Weights = Float[Tensor, "#batch priors"]  # one row where all images share it


class Unit(nn.Module):
    """delta(z) = s Up(a1 Heat(X) + a2 Wave(X) + a3 Poisson(X)), X = Down(z), a = softmax(W mean_tokens(X) + b).

    Prefix tokens (class, registers) lie on no grid and hold only the zero frequency, which heat and wave keep and
    Poisson removes: Y_prefix = (a1 + a2) X_prefix. Without a bottleneck (`rank` None) X = z, and Up is diagonal.

    The physical constants and the router are learned as offsets from where they start, times `physics_rate`: with Adam,
    whose steps do not depend on a parameter's scale, they move by that much more slowly than the projections.
    """

    def __init__(
        self,
        place: BlockInfo,
        *,
        rank: int | None,
        priors: Sequence[str],
        router: str,
        start: dict[str, float],
        physics_rate: float,
        poisson_gain: str,
        scale: float,
        route_weight: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        dim, width = place.dim, place.dim if rank is None else rank
        self.grid, self.num_prefix_tokens = place.grid, place.num_prefix_tokens
        self.priors, self.start, self.physics_rate = tuple(priors), start, physics_rate
        self.scale, self.route_weight = scale, route_weight

        # zero Up, so that the first step starts from the frozen model
        self.down = None if rank is None else nn.Parameter(torch.empty(rank, dim))
        self.up = nn.Parameter(torch.zeros(dim) if rank is None else torch.zeros(dim, rank))
        if self.down is not None:
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5), generator=generator)  # as LoRA and AdaptFormer start

        def offset(*shape: int, needed: bool) -> nn.Parameter | None:
            return nn.Parameter(torch.zeros(shape)) if needed else None

        self.diffusivity = offset(width, needed="heat" in priors)
        self.speed = offset(width, needed="wave" in priors)
        self.time = offset(width, needed="heat" in priors or "wave" in priors)
        self.source = offset(*place.grid, needed="poisson" in priors)
        self.route_bias = offset(len(priors), needed=len(priors) > 1)
        self.route = offset(len(priors), width, needed=len(priors) > 1 and router == "dynamic")

        basis = physics.basis(*place.grid, dtype=self.up.dtype, device=self.up.device)
        if poisson_gain == "unit":
            largest = basis.inverse_laplace.max().clamp(min=1e-12)  # a grid of one token has no gain at all
            basis = basis._replace(inverse_laplace=basis.inverse_laplace / largest)
        for name, constant in basis._asdict().items():
            self.register_buffer(f"basis_{name}", constant, persistent=False)
        self.register_buffer("route_sum", torch.zeros(len(priors)), persistent=False)
        self.register_buffer("route_steps", torch.zeros(()), persistent=False)
        self.weights: Tensor | None = None
        self.folded: tuple[Tensor, Tensor | None] | None = None

    @property
    def basis(self) -> physics.Basis:
        """The constants of this unit's grid."""
        return physics.Basis(self.basis_rows, self.basis_columns, self.basis_laplace, self.basis_inverse_laplace)

    def forward(self, z: Tokens) -> Tokens:
        if z.shape[1] != self.num_prefix_tokens + self.grid[0] * self.grid[1]:
            raise UserError(
                f"{z.shape[1]} tokens reached a MoPPA unit attached for {self.num_prefix_tokens} prefix tokens "
                f"and a grid of {self.grid[0]} x {self.grid[1]}: attach it to a model created for this image size"
            )
        x = z if self.down is None else linear(z, self.down, None)
        weights = self.mixing_weights(x)
        if self.training:
            self.weights = weights
        y = self.solve(x, weights)
        # without a bottleneck Up is diagonal, which commutes with the transforms: the filters hold it
        return y if self.down is None else linear(y, self.scale * self.up, None)

    def mixing_weights(self, x: Float[Tensor, "batch tokens width"]) -> Weights:
        """a = softmax(W mean_tokens(X) + b) per image; one row for all where the router is static."""
        if self.route_bias is None:
            return x.new_ones(1, 1)  # one prior alone has nothing to be weighed against
        logits = self.route_bias[None]
        if self.route is not None:
            logits = logits + F.linear(x.mean(dim=1), self.route)
        return (self.physics_rate * logits).softmax(dim=-1)

    def constants(self) -> dict[str, Tensor]:
        """The learned k, c and t (width,), positive, and S (H, W), of the priors that are on."""
        learned = {"diffusivity": self.diffusivity, "speed": self.speed, "time": self.time}
        values = {
            name: F.softplus(inverse_softplus(self.start[name]) + self.physics_rate * offset)
            for name, offset in learned.items()
            if offset is not None
        }
        if self.source is not None:
            values["source"] = 1 + self.physics_rate * self.source
        return values

    def filters(self) -> tuple[Tensor, Tensor | None]:
        """The gains of heat and wave where they are on, (n, H, W, width), and Poisson's source (H, W, width) or None.

        Without a bottleneck they hold the output's gain per channel too.
        """
        on, learned = self.basis, self.constants()
        up = self.scale * self.up if self.down is None else self.up.new_ones(len(self.down))
        gains = [self.up.new_zeros(0, *self.grid, len(up))]
        for prior in self.priors:
            if prior == "heat":
                gains.append(up * physics.heat_gain(on.laplace, learned["diffusivity"], learned["time"])[None])
            elif prior == "wave":
                gains.append(up * physics.wave_gain(on.laplace, learned["speed"], learned["time"])[None])
        return torch.cat(gains), up * learned["source"][..., None] if "source" in learned else None

    def solve(self, x: Float[Tensor, "batch tokens width"], weights: Weights) -> Float[Tensor, "batch tokens width"]:
        """The mixture of the priors that are on: one transform of X, one of S X, one back."""
        gains, source = self.filters() if self.folded is None else self.folded
        weight = dict(zip(self.priors, weights.expand(len(x), -1).split(1, dim=1), strict=True))
        potential = weight.pop("poisson", None)
        kept = torch.cat([*weight.values(), weights.new_zeros(len(x), 0)], dim=1)
        with torch.autocast(x.device.type, enabled=False):  # a spectrum spans more than half precision holds
            return MixtureSolve.apply(x.to(gains.dtype), kept.to(gains.dtype), gains, potential, source, self.basis)

    def fold(self) -> None:
        """Keeps the filters, which depend on no input, for an evaluation."""
        gains, source = self.filters()
        self.folded = gains.detach(), None if source is None else source.detach()

    def observations(self, *, is_last: bool) -> dict[str, Tensor]:
        """The mean mixing weights over the steps since the last call, and k, c, t now; at last S and the response."""
        route = self.route_sum / self.route_steps.clamp(min=1)
        self.route_sum.zero_()
        self.route_steps.zero_()
        told = {"route": route, **self.constants()}
        if is_last:
            return {**told, "response": self.response(route)}
        return {name: value for name, value in told.items() if name != "source"}

    @torch.no_grad()
    def response(self, weights: Float[Tensor, " priors"]) -> Float[Tensor, "height width"]:
        """What the operator makes of 1 at the middle token and 0 elsewhere, averaged over the channels."""
        width, middle = len(self.up) if self.down is None else len(self.down), (self.grid[0] // 2, self.grid[1] // 2)
        impulse = self.up.new_zeros(1, self.grid[0] * self.grid[1], width)
        impulse[:, middle[0] * self.grid[1] + middle[1]] = 1
        return self.solve(impulse, weights[None])[0].mean(dim=-1).view(self.grid)

    def penalty(self, progress: float) -> Tensor:
        """lambda g KL(mean_batch(a) || uniform), g falling from 1 to 0 over the first half of the training."""
        assert self.weights is not None, "penalty() follows a forward in training mode"
        mean, self.weights = self.weights.mean(dim=0), None
        self.route_sum += mean.detach()
        self.route_steps += 1
        return self.route_weight * max(0.0, 1 - 2 * progress) * (mean * (len(mean) * mean).log()).sum()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "weights": None}  # the weights of a forward cannot be copied, and belong to no copy


class BeforeBlock(nn.Module):
    """x <- x + delta(norm1(x)), then the untouched block; a block without a first norm is given a plain one."""

    def __init__(self, block: nn.Module, unit: Unit, place: BlockInfo) -> None:
        super().__init__()
        self.block, self.unit, self.layout = block, unit, place.layout

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        norm = getattr(self.block, "norm1", None)
        z = plainly_normed(x, self.layout) if norm is None else to_tokens(norm(x), self.layout)
        return self.block(x + from_tokens(self.unit(z), self.layout, like=x), **kwargs)


class AfterNorm(nn.Module):
    """Attention reads z + delta(z), z = norm1(x); the rest of the block is untouched."""

    def __init__(self, norm: nn.Module, unit: Unit, place: BlockInfo) -> None:
        super().__init__()
        self.norm, self.unit, self.layout = norm, unit, place.layout

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        return z + from_tokens(self.unit(to_tokens(z, self.layout)), self.layout, like=z)


class BeforeConvolution(nn.Module):
    """A ConvNeXt's depthwise convolution, in attention's place, reads x + delta(norm(x)), the norm a plain one."""

    def __init__(self, convolution: nn.Module, unit: Unit, place: BlockInfo) -> None:
        super().__init__()
        self.convolution, self.unit, self.layout = convolution, unit, place.layout

    def forward(self, x: Tensor) -> Tensor:
        delta = self.unit(plainly_normed(x, self.layout))
        return self.convolution(x + from_tokens(delta, self.layout, like=x))


def plainly_normed(x: Tensor, layout: Layout) -> Tokens:
    """The tokens of `x` under a LayerNorm without weights."""
    tokens = to_tokens(x, layout)
    return F.layer_norm(tokens, tokens.shape[-1:])


def attach(
    model: nn.Module,
    *,
    rank: int | None,
    priors: Sequence[str],
    position: str,
    router: str,
    start: dict[str, float],
    physics_rate: float,
    poisson_gain: str,
    scale: float,
    route_weight: float,
    generator: torch.Generator | None,
) -> None:
    """Puts one unit before the attention of every block of a vision transformer, Swin or ConvNeXt.

    `rank` is the width of the bottleneck, None for none; `priors` are those of heat, wave and poisson that are on;
    `position` is "residual" or "attn_input"; `router` gives weights per image ("dynamic") or one set ("static");
    `start` holds where diffusivity (tokens^2 / time), speed (tokens / time) and time begin; `physics_rate` is how fast
    they, the source and the router learn beside the projections; `poisson_gain` is "exact" or "unit" (largest gain 1);
    `scale` multiplies the unit's output; `route_weight` is the lambda of the route regularization.

    Raises:
        UserError: for a value out of range, a model without blocks or grid, or a second unit on the same model.
    """
    validate.one_of("method.attach.position", position, POSITIONS)
    validate.one_of("method.attach.router", router, ROUTERS)
    validate.one_of("method.attach.poisson_gain", poisson_gain, POISSON_GAINS)
    check_priors(priors)
    for name in ("diffusivity", "speed", "time"):
        validate.number(f"method.attach.start.{name}", start.get(name), minimum=0, exclusive_minimum=True)
    validate.number("method.attach.physics_rate", physics_rate, minimum=0, exclusive_minimum=True)
    validate.number("method.attach.scale", scale, minimum=0, exclusive_minimum=True)
    validate.number("method.attach.route_weight", route_weight, minimum=0)
    if any(isinstance(module, Unit) for module in model.modules()):
        raise UserError("this model has MoPPA units already: attach them once, to a fresh model")
    places = find_blocks(model)
    narrowest = min(place.dim for place in places)
    if rank is not None and validate.integer("method.attach.rank", rank, minimum=1) > narrowest:
        raise UserError(f"method.attach.rank={rank} is above the backbone's width {narrowest}: choose a smaller one")
    for place in places:
        unit = Unit(
            place,
            rank=rank,
            priors=priors,
            router=router,
            start=start,
            physics_rate=physics_rate,
            poisson_gain=poisson_gain,
            scale=scale,
            route_weight=route_weight / len(places),
            generator=generator,
        )
        if position == "residual":
            wrap_module(place.owner, place.name, lambda block, unit=unit, place=place: BeforeBlock(block, unit, place))
        elif hasattr(place.block, "norm1"):
            wrap_module(place.block, "norm1", lambda norm, unit=unit, place=place: AfterNorm(norm, unit, place))
        else:
            wrap_module(
                place.block, "conv_dw", lambda mixer, unit=unit, place=place: BeforeConvolution(mixer, unit, place)
            )


def check_priors(priors: Sequence[str]) -> None:
    """At least one prior, each by its name, each once."""
    for prior in priors:
        validate.one_of("method.attach.priors", prior, PRIORS)
    if not priors or len(set(priors)) < len(priors):
        raise UserError(f"method.attach.priors={list(priors)}: name at least one of heat, wave, poisson, each once")


def inverse_softplus(value: float) -> float:
    """The number whose softplus is `value`."""
    return math.log(math.expm1(value))
