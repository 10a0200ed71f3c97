"""The operator of MoPPA on a list of tokens, with a handwritten gradient.

It computes `physics.filter_tokens`. Autograd needs more passes over the tokens, and these passes are the cost of the
operator. Here slices are written in place, and one product of two spectra gives the gradients of both the filters and
the mixing weights.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from moppa.mixture import physics
from moppa.mixture.physics import Tokens


class MixtureSolve(torch.autograd.Function):
    """`physics.filter_tokens`, with the same arguments. One row of weights for all images has no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tokens,
        a: Float[Tensor, "#batch priors"],
        gains: Float[Tensor, "priors height width channels"],
        b: Float[Tensor, "#batch 1"] | None,
        source: Float[Tensor, "height width channels"] | None,
        basis: physics.Basis,
    ) -> Tokens:
        prefix, grid = split_grid(x, basis)
        gain = mix_gains(a, gains)
        spectrum = physics.dct(grid, basis).mul_(gain)
        if b is not None and source is not None:
            spectrum.addcmul_(physics.dct(source * grid, basis), b[:, :, None, None] * basis.inverse_laplace[..., None])
        y = torch.empty_like(x)
        y_prefix, y_grid = split_grid(y, basis)
        y_prefix.copy_(gain[:, 0, :1] * prefix)
        y_grid.copy_(physics.inverse_dct(spectrum, basis))
        ctx.save_for_backward(x, a, gains, b, source)
        ctx.basis = basis
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Returns the gradients. The transforms are orthonormal, so each filter is its own adjoint."""
        x, a, gains, b, source = ctx.saved_tensors
        basis = ctx.basis
        (prefix, grid), (dy_prefix, dy_grid) = split_grid(x, basis), split_grid(dy, basis)
        gain = mix_gains(a, gains)  # computing it and Xhat again is cheaper than saving them
        dyhat = physics.dct(dy_grid, basis)

        dgain = physics.dct(grid, basis).mul_(dyhat)
        dgain[:, 0, 0] += (dy_prefix * prefix).sum(dim=1)
        da, dgains = dgain.flatten(1) @ gains.flatten(1).T, (a.T @ dgain.flatten(1)).view_as(gains)

        db = dsource = potential = None
        if b is not None and source is not None:
            potential = physics.inverse_dct(dyhat * basis.inverse_laplace[..., None], basis)
            dscaled = torch.mul(potential, grid, out=dgain).flatten(1)
            db, dsource = dscaled @ source.flatten()[:, None], (b.T @ dscaled).view_as(source)

        dx = torch.empty_like(x)
        dx_prefix, dx_grid = split_grid(dx, basis)
        dx_prefix.copy_(gain[:, 0, :1] * dy_prefix)
        filtered = physics.inverse_dct(dyhat.mul_(gain), basis)
        if potential is not None and b is not None and source is not None:
            filtered.addcmul_(potential.mul_(source), b[:, :, None, None])
        dx_grid.copy_(filtered)
        return dx, da, dgains, db, dsource, None


def solve_mixture(
    x: Tokens,
    a: Float[Tensor, "#batch priors"],
    gains: Float[Tensor, "priors height width channels"],
    b: Float[Tensor, "#batch 1"] | None,
    source: Float[Tensor, "height width channels"] | None,
    basis: physics.Basis,
) -> Tokens:
    """Returns `MixtureSolve`, or in a graph that is traced or exported, which cannot hold it, its definition."""
    if is_traced():
        return physics.filter_tokens(x, a, gains, b, source, basis)
    return MixtureSolve.apply(x, a, gains, b, source, basis)


def is_traced() -> bool:
    """Returns whether a graph of the model is written: for TorchScript, ONNX or torch.export."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()  # type: ignore[attr-defined]


def mix_gains(
    a: Float[Tensor, "batch priors"], gains: Float[Tensor, "priors height width channels"]
) -> Float[Tensor, "batch height width channels"]:
    """Returns sum_i a_i gain_i, one gain per image."""
    return (a @ gains.flatten(1)).unflatten(1, gains.shape[1:])


def split_grid(x: Tokens, basis: physics.Basis) -> tuple[Float[Tensor, "batch prefix channels"], physics.Grid]:
    """Returns the prefix tokens and the grid of the other tokens, both as views."""
    num_grid = basis.laplace.numel()
    return x[:, :-num_grid], x[:, -num_grid:].unflatten(1, basis.laplace.shape)
