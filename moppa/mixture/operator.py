"""The operator of a MoPPA unit: the priors with their trained constants, solved on the grid of tokens."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.mixture import kernel_op, physics
from moppa.mixture.constants import FrequencyEmbedding, PositiveConstant
from moppa.mixture.fused import is_traced, mix_gains, solve_mixture
from moppa.mixture.router import Weights
from moppa.mixture.settings import CONSTANTS, MixtureSettings

Bottleneck = Float[Tensor, "batch tokens channels"]
OutputGain = Float[Tensor, " channels"] | None
Filters = tuple[Float[Tensor, "priors height width channels"], Float[Tensor, "height width channels"] | None]
USERS = {"diffusivity": {"heat"}, "speed": {"wave"}, "time": {"heat", "wave"}, "damping": {"wave"}}
PER_FREQUENCY = ("diffusivity", "speed")  # with an embedding; time and damping stay constants of the channel


class Operator(nn.Module):
    """Y = a0 X + a1 Heat(X) + a2 Wave(X) + a3 Poisson(X), of which only the terms in `priors` exist.

    Prefix tokens (class, registers) have no place on the grid. They carry only the zero frequency, which Poisson
    removes and the other priors keep: Y_prefix = (a0 + a1 + a2) X_prefix.

    Args:
        width: Number of channels of X.
        grid: Height and width of the grid of tokens.
        settings: The settings of all units in the model.
        embedding: Shared by all blocks if the constants depend on the frequency.
        generator: Draws the initial maps from the embedding to the constants.
    """

    basis_rows: Tensor
    basis_columns: Tensor
    basis_laplace: Tensor
    basis_inverse_laplace: Tensor
    merged_gains: Tensor | None
    merged_source: Tensor | None

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        settings: MixtureSettings,
        *,
        embedding: FrequencyEmbedding | None,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.width, self.grid, self.priors, self.rate = width, grid, tuple(settings.priors), settings.physics_rate
        self.positive = nn.ModuleDict(
            {
                name: PositiveConstant(
                    width,
                    start=start,
                    rate=self.rate,
                    embedding=embedding if name in PER_FREQUENCY else None,
                    generator=generator,
                )
                for name, start in {**settings.start, "damping": settings.damping}.items()
                if start is not None and USERS[name] & {*self.priors}
            }
        )
        self.velocity = nn.Parameter(torch.zeros(width)) if "damping" in self.positive else None
        self.source = nn.Parameter(torch.zeros(grid)) if "poisson" in self.priors else None

        like = torch.zeros(())
        basis = physics.make_basis(*grid, dtype=like.dtype, device=like.device)
        if settings.poisson_gain == "unit":
            basis = physics.with_unit_poisson_gain(basis)
        for name, constant in basis._asdict().items():
            self.register_buffer(f"basis_{name}", constant, persistent=False)
        for name in ("merged_gains", "merged_source"):  # buffers, so that they move with the model
            self.register_buffer(name, None, persistent=False)
        self.has_fixed_weights = False  # whether the merged filters include the weights
        self.uses_kernel = self.has_kernel()

    @property
    def basis(self) -> physics.Basis:
        """The constants of the grid."""
        return physics.Basis(self.basis_rows, self.basis_columns, self.basis_laplace, self.basis_inverse_laplace)

    @property
    def merged(self) -> Filters | None:
        """The filters that `precompute_filters` stored."""
        return None if self.merged_gains is None else (self.merged_gains, self.merged_source)

    def forward(self, x: Bottleneck, weights: Weights, output_gain: OutputGain) -> Bottleneck:
        """Returns output_gain * Y: one transform of X, one of S X, one inverse transform."""
        if self.uses_kernel and output_gain is None and x.dtype in kernel_op.DTYPES and not is_traced():
            return self.solve_in_kernel(x, weights)
        gains, source = self.merged or self.filters(output_gain)
        if self.has_fixed_weights:
            a, b = gains.new_ones(1, 1), gains.new_ones(1, 1)
        else:
            a, b = self.split_weights(weights.to(gains.dtype).expand(x.shape[0], -1))  # len would fix a graph's batch
        with without_autocast(x.device.type):  # half precision is too coarse for a spectrum
            return solve_mixture(x.to(gains.dtype), a, gains, b, source, self.basis)

    def has_kernel(self) -> bool:
        """Returns whether the Triton kernel computes this operator where it is. It has constants per channel only."""
        return (
            kernel_op.fits(self.grid, self.width)
            and self.velocity is None
            and all(constant.embedding is None for constant in self.positive.values())
            and self.basis_laplace.dtype == torch.float32
            and kernel_op.works(self.basis_laplace.device)
        )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Operator":
        """Moves or casts the operator and looks again whether there is a kernel for it."""
        super()._apply(fn, recurse)
        self.uses_kernel = self.has_kernel()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a copied or unpickled operator, which may be on another machine."""
        super().__setstate__(state)
        self.uses_kernel = self.has_kernel()

    def solve_in_kernel(self, x: Bottleneck, weights: Weights) -> Bottleneck:
        """Returns Y in the dtype of X."""
        by_name: dict[str, Any] = dict(self.positive.items())
        constants = [by_name.get(name) for name in CONSTANTS]
        diffusivity, speed, time = (None if constant is None else constant.offset for constant in constants)
        return kernel_op.solve(
            x,
            weights,
            kernel_op.Parameters(diffusivity, speed, time, self.source),
            self.basis,
            priors=self.priors,
            starts=[0.0 if constant is None else constant.start for constant in constants],
            rate=self.rate,
        )

    def constants(self) -> dict[str, Tensor]:
        """Returns k, c, t and the damping, all positive, the initial velocity and the source S (H, W), if used."""
        values = {name: constant(self.grid) for name, constant in self.positive.items()}
        if self.velocity is not None:
            values["velocity"] = self.rate * self.velocity
        if self.source is not None:
            values["source"] = 1 + self.rate * self.source
        return values

    def filters(self, output_gain: OutputGain) -> Filters:
        """Returns the gains of all priors but Poisson, one after the other, and Poisson's source, or None.

        Both are multiplied by `output_gain`, which is diagonal and so commutes with the transforms.
        """
        constants = self.constants()
        factor = self.basis_laplace.new_ones(self.width) if output_gain is None else output_gain
        gains = [factor.new_zeros(0, *self.grid, self.width)]
        gains += [(factor * self.gain(prior, constants))[None] for prior in self.priors if prior != "poisson"]
        return torch.cat(gains), factor * constants["source"][..., None] if "source" in constants else None

    def gain(self, prior: str, constants: Mapping[str, Tensor]) -> physics.Gain:
        """Returns the filter of a prior."""
        if prior == "identity":
            return physics.identity_gain(self.basis_laplace)
        if prior == "heat":
            return physics.heat_gain(self.basis_laplace, constants["diffusivity"], constants["time"])
        c, t = constants["speed"], constants["time"]
        if "damping" not in constants:
            return physics.wave_gain(self.basis_laplace, c, t)
        return physics.damped_wave_gain(self.basis_laplace, c, t, constants["damping"], constants["velocity"])

    def split_weights(
        self, weights: Weights
    ) -> tuple[Float[Tensor, "#batch filters"], Float[Tensor, "#batch 1"] | None]:
        """Returns the weights of all priors but Poisson, and the weight of Poisson, or None."""
        weight = dict(zip(self.priors, weights.split(1, dim=1), strict=True))
        poisson_weight = weight.pop("poisson", None)
        return torch.cat([*weight.values(), weights.new_zeros(weights.shape[0], 0)], dim=1), poisson_weight

    @torch.no_grad()
    def precompute_filters(self, weights: Weights | None, output_gain: OutputGain) -> None:
        """Stores the filters for evaluation; they depend on no input. With weights for all images it mixes them too."""
        gains, source = self.filters(output_gain)
        if weights is not None:
            a, b = self.split_weights(weights)
            gains, source = mix_gains(a, gains), None if source is None or b is None else b * source
        self.merged_gains, self.merged_source, self.has_fixed_weights = gains, source, weights is not None

    @torch.no_grad()
    def response(self, weights: Float[Tensor, " priors"], output_gain: OutputGain) -> Float[Tensor, "height width"]:
        """Returns the mean over channels of the response to an impulse at the middle token."""
        height, width = self.grid
        impulse = self.basis_laplace.new_zeros(1, height * width, self.width)
        impulse[:, height // 2 * width + width // 2] = 1
        return self(impulse, weights[None], output_gain)[0].mean(dim=-1).view(self.grid)


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Returns a context without autocast. Some devices, as meta, have none."""
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
