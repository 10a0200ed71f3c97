"""Heat, wave and Poisson equations on a grid of tokens, solved with the orthonormal DCT: one pure function each.

Source: Wang et al., "Mixture of Physical Priors Adapter for Parameter-Efficient Fine-Tuning", arXiv 2412.02759.
docs/moppa.md writes out the discrete form. Grids `x` have shape (batch, H, W, channels) and zero-flux (Neumann)
boundaries. Lengths are in tokens. The constants `k`, `c`, `t` have shape (channels,), or (H, W, channels) with a value
per frequency, or are numbers.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Grid = Float[Tensor, "batch height width channels"]
Tokens = Float[Tensor, "batch tokens channels"]
PerChannel = Float[Tensor, "channels"] | Float[Tensor, "height width channels"] | Float[Tensor, ""] | float
Gain = Float[Tensor, "height width #channels"]  # one channel if the constants are numbers


class Basis(NamedTuple):
    """Constants of a grid: the DCT matrix of each side, the eigenvalues L of -Laplace, and 1 / L (0 at L = 0)."""

    rows: Float[Tensor, "height height"]
    columns: Float[Tensor, "width width"]
    laplace: Float[Tensor, "height width"]
    inverse_laplace: Float[Tensor, "height width"]


def make_basis(height: int, width: int, *, dtype: torch.dtype, device: torch.device) -> Basis:
    """Returns the constants of a grid, computed in float64 and rounded to `dtype`."""
    rows, columns = dct_matrix(height), dct_matrix(width)
    p, q = (math.pi * torch.arange(n, dtype=torch.float64, device="cpu") / n for n in (height, width))
    laplace = p[:, None] ** 2 + q[None, :] ** 2
    inverse = torch.where(laplace > 0, 1 / laplace.clamp(min=1e-300), 0.0)
    return Basis(*(tensor.to(device=device, dtype=dtype) for tensor in (rows, columns, laplace, inverse)))


def basis_like(x: Grid) -> Basis:
    """Returns the constants of the grid of `x`, in its dtype and on its device."""
    return make_basis(x.shape[1], x.shape[2], dtype=x.dtype, device=x.device)


def with_unit_poisson_gain(basis: Basis) -> Basis:
    """Returns the basis with 1 / L divided by its maximum, so that the Poisson path amplifies no frequency."""
    max_gain = basis.inverse_laplace.max().clamp(min=1e-12)  # 0 for a grid of one token
    return basis._replace(inverse_laplace=basis.inverse_laplace / max_gain)


def dct_matrix(n: int) -> Float[Tensor, "n n"]:
    """Returns D[p, x] = s_p cos(pi p (x + 1/2) / n), s_0 = sqrt(1 / n), s_p = sqrt(2 / n): orthonormal, float64."""
    p = torch.arange(n, dtype=torch.float64, device="cpu")[:, None]
    x = torch.arange(n, dtype=torch.float64, device="cpu")[None, :]
    matrix = torch.cos(math.pi * p * (x + 0.5) / n) * math.sqrt(2 / n)
    matrix[0] = math.sqrt(1 / n)
    return matrix


def dct(x: Grid, basis: Basis) -> Grid:
    """Returns Xhat[p, q] = sum_hw D_H[p, h] X[h, w] D_W[q, w], per channel."""
    # rows first: a slice of a longer list of tokens then needs no copy
    return along_columns(basis.columns, along_rows(basis.rows, x))


def inverse_dct(spectrum: Grid, basis: Basis) -> Grid:
    """Returns the grid whose DCT is `spectrum`."""
    return along_rows(basis.rows.T, along_columns(basis.columns.T, spectrum))


def along_rows(matrix: Float[Tensor, "height height"], x: Grid) -> Grid:
    """Applies a matrix to the height axis, as one matrix product on (H, W * channels)."""
    return torch.matmul(matrix, x.flatten(2)).view_as(x)


def along_columns(matrix: Float[Tensor, "width width"], x: Grid) -> Grid:
    """Applies a matrix to the width axis."""
    return torch.matmul(matrix, x)


def identity_gain(laplace: Float[Tensor, "height width"]) -> Gain:
    """Returns 1: u = X."""
    return torch.ones_like(laplace)[..., None]


def heat_gain(laplace: Float[Tensor, "height width"], k: PerChannel, t: PerChannel) -> Gain:
    """Returns exp(-k t L), the filter of du/dt = k Laplace(u), u(0) = X."""
    return torch.exp(-laplace[..., None] * k * t)


def wave_gain(laplace: Float[Tensor, "height width"], c: PerChannel, t: PerChannel) -> Gain:
    """Returns cos(c t sqrt(L)), the filter of d2u/dt2 = c^2 Laplace(u), u(0) = X, u'(0) = 0."""
    return torch.cos(laplace.sqrt()[..., None] * c * t)


def damped_wave_gain(
    laplace: Float[Tensor, "height width"], c: PerChannel, t: PerChannel, a: PerChannel, b: PerChannel
) -> Gain:
    """Returns exp(-a t / 2) (cos(w t) + (b + a / 2) sin(w t) / w), w^2 = c^2 L - a^2 / 4.

    It is the filter of d2u/dt2 + a du/dt = c^2 Laplace(u), u(0) = X, u'(0) = b X. If w^2 < 0, as at L = 0, then
    cos(w t) = cosh(|w| t) and sin(w t) / w = sinh(|w| t) / |w|.
    """
    half = torch.zeros_like(laplace)[..., None] + a * t / 2
    square = laplace[..., None] * (c * t) ** 2 - half**2  # (w t)^2
    is_small = square.abs() < 1e-2
    x = torch.where(is_small, 1.0, square.abs()).sqrt()  # |w| t, and 1 near 0, where a series is exact to 1e-12
    decay, growth = torch.exp(-half), torch.exp((x - half).clamp(max=0))  # |w| t is at most a t / 2 if w^2 < 0
    cosine = torch.where(square > 0, decay * torch.cos(x), growth * (1 + torch.exp(-2 * x)) / 2)
    sine = torch.where(square > 0, decay * torch.sin(x) / x, -growth * torch.expm1(-2 * x) / (2 * x))
    near = torch.where(is_small, square, 0.0)
    cosine = torch.where(is_small, decay * (1 - near / 2 * (1 - near / 12 * (1 - near / 30))), cosine)
    sine = torch.where(is_small, decay * (1 - near / 6 * (1 - near / 20 * (1 - near / 42))), sine)
    return cosine + (b * t + half) * sine


def heat(x: Grid, k: PerChannel, t: PerChannel) -> Grid:
    """Returns the temperature at time `t`, starting from `x`, with diffusivity `k` in tokens^2 per unit of time."""
    basis = basis_like(x)
    return inverse_dct(heat_gain(basis.laplace, k, t) * dct(x, basis), basis)


def wave(x: Grid, c: PerChannel, t: PerChannel) -> Grid:
    """Returns the displacement at time `t`, starting at rest from `x`, with speed `c` in tokens per unit of time."""
    basis = basis_like(x)
    return inverse_dct(wave_gain(basis.laplace, c, t) * dct(x, basis), basis)


def damped_wave(x: Grid, c: PerChannel, t: PerChannel, a: PerChannel, b: PerChannel) -> Grid:
    """Returns the displacement at time `t` from `x` with velocity `b x`, speed `c` and damping `a`."""
    basis = basis_like(x)
    return inverse_dct(damped_wave_gain(basis.laplace, c, t, a, b) * dct(x, basis), basis)


def poisson(x: Grid, source: Float[Tensor, "height width"]) -> Grid:
    """Returns the potential u of mean 0 with -Laplace(u) = f - mean(f), f = source * x."""
    basis = basis_like(x)
    return inverse_dct(basis.inverse_laplace[..., None] * dct(source[..., None] * x, basis), basis)


def mixture(
    x: Grid,
    k: PerChannel,
    c: PerChannel,
    t: PerChannel,
    source: Float[Tensor, "height width"],
    weights: Float[Tensor, "batch 3"],
) -> Grid:
    """Returns a1 heat + a2 wave + a3 poisson, the weights `a` per image: two transforms, one inverse transform."""
    basis = basis_like(x)
    a1, a2, a3 = weights[:, :, None, None, None].unbind(1)
    filtered = (a1 * heat_gain(basis.laplace, k, t) + a2 * wave_gain(basis.laplace, c, t)) * dct(x, basis)
    potential = a3 * basis.inverse_laplace[..., None] * dct(source[..., None] * x, basis)
    return inverse_dct(filtered + potential, basis)


def filter_tokens(
    x: Tokens,
    a: Float[Tensor, "#batch priors"],
    gains: Float[Tensor, "priors height width channels"],
    b: Float[Tensor, "#batch 1"] | None,
    source: Float[Tensor, "height width channels"] | None,
    basis: Basis,
) -> Tokens:
    """Returns the inverse DCT of sum_i a_i gain_i Xhat + b Fhat / L, F = S X, after the prefix sum_i a_i gain_i(0) X.

    It is the definition that `moppa.mixture.fused`, or any other fast form, must agree with in values and gradients.

    Args:
        x: Tokens, prefix first: N = prefix + H W.
        a: Mixing weights of the priors that filter X: identity, heat and wave, as far as they are used.
        gains: Their gains.
        b: Mixing weight of Poisson, or None.
        source: Source S of Poisson, or None.
        basis: Constants of the grid.
    """
    height, width = basis.laplace.shape
    prefix, grid = x[:, : -height * width], x[:, -height * width :].unflatten(1, (height, width))
    gain = torch.einsum("bi,ihwc->bhwc", a, gains)
    spectrum = gain * dct(grid, basis)
    if b is not None and source is not None:
        spectrum = spectrum + b[:, :, None, None] * basis.inverse_laplace[..., None] * dct(source * grid, basis)
    return torch.cat([gain[:, 0, :1] * prefix, inverse_dct(spectrum, basis).flatten(1, 2)], dim=1)
