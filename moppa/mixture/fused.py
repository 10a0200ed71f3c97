"""MoPPA's operator over a list of tokens, with its gradient written out.

It computes `physics.mixture` on the grid and the zero frequency on the prefix tokens. Autograd would do the same in
more passes over the tokens, and the passes are what the operator costs: here slices are written in place, and the
gradients of the filters and of the mixing weights come from one product of two spectra.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from moppa.mixture import physics

Tokens = Float[Tensor, "batch tokens channels"]


class MixtureSolve(torch.autograd.Function):
    """Y = sum_i a_i gain_i Xhat + b Fhat / L, F = S X, back on the grid; sum_i a_i gain_i(0) X on the prefix.

    x (B, N, C) with N = prefix + H W tokens; a (B, n) and gains (n, H, W, C) of the priors that are on, without
    Poisson; b (B, 1) and source S (H, W, C), both None where Poisson is off; `on` the grid's constants.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tokens,
        a: Float[Tensor, "batch priors"],
        gains: Float[Tensor, "priors height width channels"],
        b: Float[Tensor, "batch 1"] | None,
        source: Float[Tensor, "height width channels"] | None,
        on: physics.Basis,
    ) -> Tokens:
        prefix, grid = as_grid(x, on)
        gain = mixed(a, gains)
        spectrum = physics.dct(grid, on).mul_(gain)
        if b is not None and source is not None:
            spectrum.addcmul_(physics.dct(source * grid, on), b[:, :, None, None] * on.inverse_laplace[..., None])
        y = torch.empty_like(x)
        y_prefix, y_grid = as_grid(y, on)
        y_prefix.copy_(gain[:, 0, :1] * prefix)
        y_grid.copy_(physics.inverse_dct(spectrum, on))
        ctx.save_for_backward(x, a, gains, b, source)
        ctx.on = on
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The transforms are orthonormal, so each filter is its own adjoint: the gradient passes it as X did."""
        x, a, gains, b, source = ctx.saved_tensors
        on = ctx.on
        (prefix, grid), (dy_prefix, dy_grid) = as_grid(x, on), as_grid(dy, on)
        gain = mixed(a, gains)  # this and Xhat again, which is cheaper than to keep them
        dyhat = physics.dct(dy_grid, on)

        dgain = physics.dct(grid, on).mul_(dyhat)
        dgain[:, 0, 0] += (dy_prefix * prefix).sum(dim=1)
        da, dgains = dgain.flatten(1) @ gains.flatten(1).T, (a.T @ dgain.flatten(1)).view_as(gains)

        db = dsource = potential = None
        if b is not None and source is not None:
            potential = physics.inverse_dct(dyhat * on.inverse_laplace[..., None], on)
            dscaled = torch.mul(potential, grid, out=dgain).flatten(1)
            db, dsource = dscaled @ source.flatten()[:, None], (b.T @ dscaled).view_as(source)

        dx = torch.empty_like(x)
        dx_prefix, dx_grid = as_grid(dx, on)
        dx_prefix.copy_(gain[:, 0, :1] * dy_prefix)
        filtered = physics.inverse_dct(dyhat.mul_(gain), on)
        if potential is not None and b is not None:
            filtered.addcmul_(potential.mul_(source), b[:, :, None, None])
        dx_grid.copy_(filtered)
        return dx, da, dgains, db, dsource, None


def mixed(
    a: Float[Tensor, "batch priors"], gains: Float[Tensor, "priors height width channels"]
) -> Float[Tensor, "batch height width channels"]:
    """sum_i a_i gain_i, (B, H, W, C)."""
    return (a @ gains.flatten(1)).unflatten(1, gains.shape[1:])


def as_grid(x: Tokens, on: physics.Basis) -> tuple[Float[Tensor, "batch prefix channels"], physics.Grid]:
    """The prefix tokens, and the others as the grid that they lie on: views."""
    num_grid = on.laplace.numel()
    return x[:, :-num_grid], x[:, -num_grid:].unflatten(1, on.laplace.shape)
