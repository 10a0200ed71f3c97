"""The MoPPA unit: a low-rank bottleneck that solves heat, wave and Poisson equations on the grid of tokens.

Source: Wang et al., "Mixture of Physical Priors Adapter for Parameter-Efficient Fine-Tuning", arXiv 2412.02759. The
paper has no public code; docs/moppa.md lists what comes from the paper and what is our choice.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa.mixture import physics
from moppa.mixture.fused import MixtureSolve
from moppa.mixture.router import Router, Weights
from moppa.mixture.settings import CONSTANTS, MixtureSettings
from moppa.peft.blocks import BlockInfo
from moppa.utils.errors import UserError

Tokens = Float[Tensor, "batch tokens dim"]
Bottleneck = Float[Tensor, "batch tokens width"]


class Unit(nn.Module):
    """delta(z) = s Up(a1 Heat(X) + a2 Wave(X) + a3 Poisson(X)), X = Down(z), with mixing weights a from the router.

    Prefix tokens (class, registers) have no place on the grid. They carry only the zero frequency, which heat and wave
    keep and Poisson removes: Y_prefix = (a1 + a2) X_prefix. Without a bottleneck (`rank=None`), X = z and Up is
    diagonal.

    The physical constants are stored as offsets from their initial values, times `physics_rate`. The step of Adam does
    not depend on the scale of a parameter, so this factor sets how fast they move relative to the projections.

    Args:
        block: The block that the unit serves: its width, grid and number of prefix tokens.
        settings: The settings of all units in the model.
        route_weight: Weight of this unit's route regularization in the loss.
        generator: Draws the initial Down.
    """

    basis_rows: Tensor
    basis_columns: Tensor
    basis_laplace: Tensor
    basis_inverse_laplace: Tensor

    def __init__(
        self,
        block: BlockInfo,
        settings: MixtureSettings,
        *,
        route_weight: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.settings, self.grid, self.num_prefix_tokens = settings, block.grid, block.num_prefix_tokens
        dim, rank, priors = block.dim, settings.rank, settings.priors
        width = dim if rank is None else rank

        # Up starts at zero, so the first step starts from the pretrained model
        self.down = None if rank is None else nn.Parameter(torch.empty(rank, dim))
        self.up = nn.Parameter(torch.zeros(dim) if rank is None else torch.zeros(dim, rank))
        if self.down is not None:
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5), generator=generator)  # as in LoRA and AdaptFormer

        def offset(*shape: int, is_used: bool) -> nn.Parameter | None:
            return nn.Parameter(torch.zeros(shape)) if is_used else None

        self.diffusivity = offset(width, is_used="heat" in priors)
        self.speed = offset(width, is_used="wave" in priors)
        self.time = offset(width, is_used="heat" in priors or "wave" in priors)
        self.source = offset(*block.grid, is_used="poisson" in priors)
        self.router = Router(
            width,
            len(priors),
            is_dynamic=settings.router == "dynamic",
            rate=settings.physics_rate,
            penalty_weight=route_weight,
        )

        basis = physics.make_basis(*block.grid, dtype=self.up.dtype, device=self.up.device)
        if settings.poisson_gain == "unit":
            basis = physics.with_unit_poisson_gain(basis)
        for name, constant in basis._asdict().items():
            self.register_buffer(f"basis_{name}", constant, persistent=False)
        self.merged_filters: tuple[Tensor, Tensor | None] | None = None

    @property
    def basis(self) -> physics.Basis:
        """The constants of this unit's grid."""
        return physics.Basis(self.basis_rows, self.basis_columns, self.basis_laplace, self.basis_inverse_laplace)

    def forward(self, z: Tokens) -> Tokens:
        if z.shape[1] != self.num_prefix_tokens + self.grid[0] * self.grid[1]:
            raise UserError(
                f"a MoPPA unit for {self.num_prefix_tokens} prefix tokens and a grid of "
                f"{self.grid[0]} x {self.grid[1]} got {z.shape[1]} tokens: "
                f"attach MoPPA to a model that was created for this image size"
            )
        x = z if self.down is None else F.linear(z, self.down)
        y = self.solve(x, self.router(x))
        # without a bottleneck Up is diagonal and commutes with the transforms, so the filters include it
        return y if self.down is None else F.linear(y, self.settings.scale * self.up)

    def constants(self) -> dict[str, Tensor]:
        """Returns k, c and t (width,), all positive, and the source S (H, W), as far as the priors use them."""
        offsets = {name: getattr(self, name) for name in CONSTANTS}
        rate = self.settings.physics_rate
        values = {
            name: F.softplus(inverse_softplus(self.settings.start[name]) + rate * offset)
            for name, offset in offsets.items()
            if offset is not None
        }
        if self.source is not None:
            values["source"] = 1 + rate * self.source
        return values

    def filters(self) -> tuple[Tensor, Tensor | None]:
        """Returns the gains of heat and wave (n, H, W, width) and the source of Poisson (H, W, width), or None.

        Without a bottleneck they include Up.
        """
        basis, constants = self.basis, self.constants()
        up = self.settings.scale * self.up if self.down is None else self.up.new_ones(len(self.down))
        gains = [self.up.new_zeros(0, *self.grid, len(up))]
        for prior in self.settings.priors:
            if prior == "heat":
                gains.append(up * physics.heat_gain(basis.laplace, constants["diffusivity"], constants["time"])[None])
            elif prior == "wave":
                gains.append(up * physics.wave_gain(basis.laplace, constants["speed"], constants["time"])[None])
        return torch.cat(gains), up * constants["source"][..., None] if "source" in constants else None

    def solve(self, x: Bottleneck, weights: Weights) -> Bottleneck:
        """Returns the mixture of the solutions: one transform of X, one of S X, one inverse transform."""
        gains, source = self.filters() if self.merged_filters is None else self.merged_filters
        weight = dict(zip(self.settings.priors, weights.expand(len(x), -1).split(1, dim=1), strict=True))
        poisson_weight = weight.pop("poisson", None)
        gain_weights = torch.cat([*weight.values(), weights.new_zeros(len(x), 0)], dim=1)
        with torch.autocast(x.device.type, enabled=False):  # half precision is too coarse for a spectrum
            return MixtureSolve.apply(
                x.to(gains.dtype), gain_weights.to(gains.dtype), gains, poisson_weight, source, self.basis
            )

    def merge(self) -> None:
        """Computes the filters once for evaluation; they depend on no input."""
        gains, source = self.filters()
        self.merged_filters = gains.detach(), None if source is None else source.detach()

    def diagnostics(self, *, is_last: bool) -> dict[str, Tensor]:
        """Returns the mixing weights, averaged over the steps since the last call, and the current k, c and t.

        After the last step also S and the response to an impulse.
        """
        route = self.router.pop_mean_weights()
        values = {"route": route, **self.constants()}
        if is_last:
            return {**values, "response": self.response(route)}
        return {name: value for name, value in values.items() if name != "source"}

    @torch.no_grad()
    def response(self, weights: Float[Tensor, " priors"]) -> Float[Tensor, "height width"]:
        """Returns the mean over channels of the operator's response to an impulse at the middle token."""
        width, middle = len(self.up) if self.down is None else len(self.down), (self.grid[0] // 2, self.grid[1] // 2)
        impulse = self.up.new_zeros(1, self.grid[0] * self.grid[1], width)
        impulse[:, middle[0] * self.grid[1] + middle[1]] = 1
        return self.solve(impulse, weights[None])[0].mean(dim=-1).view(self.grid)


def inverse_softplus(value: float) -> float:
    """Returns the number whose softplus is `value`."""
    return math.log(math.expm1(value))
