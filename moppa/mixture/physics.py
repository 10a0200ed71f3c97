"""Heat, wave and Poisson on a grid of tokens, solved by the orthonormal DCT: pure functions, one paper equation each.

Source: Wang et al., "Mixture of Physical Priors Adapter for Parameter-Efficient Fine-Tuning", arXiv 2412.02759; the
discrete form is written out in docs/moppa.md. Grids `x` are (batch, H, W, channels) with zero-flux (Neumann)
boundaries. Lengths are in tokens. Constants per channel (`k`, `c`, `t`) are (channels,) or a number.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Grid = Float[Tensor, "batch height width channels"]
PerChannel = Float[Tensor, "channels"] | Float[Tensor, ""] | float
Gain = Float[Tensor, "height width #channels"]  # 1 where the constants are numbers


class Basis(NamedTuple):
    """What depends on the grid alone: the DCT along each side, the eigenvalues L of -Laplace, and 1 / L or 0."""

    rows: Float[Tensor, "height height"]
    columns: Float[Tensor, "width width"]
    laplace: Float[Tensor, "height width"]
    inverse_laplace: Float[Tensor, "height width"]


def basis(height: int, width: int, *, dtype: torch.dtype, device: torch.device) -> Basis:
    """The constants of a grid, computed in float64 and then rounded to `dtype`."""
    rows, columns = dct_matrix(height), dct_matrix(width)
    p, q = (math.pi * torch.arange(n, dtype=torch.float64, device="cpu") / n for n in (height, width))
    laplace = p[:, None] ** 2 + q[None, :] ** 2
    inverse = torch.where(laplace > 0, 1 / laplace.clamp(min=1e-300), 0.0)
    return Basis(*(tensor.to(device=device, dtype=dtype) for tensor in (rows, columns, laplace, inverse)))


def dct_matrix(n: int) -> Float[Tensor, "n n"]:
    """D[p, x] = s_p cos(pi p (x + 1/2) / n), s_0 = sqrt(1 / n), s_p = sqrt(2 / n): orthonormal, in float64."""
    p = torch.arange(n, dtype=torch.float64, device="cpu")[:, None]
    x = torch.arange(n, dtype=torch.float64, device="cpu")[None, :]
    matrix = torch.cos(math.pi * p * (x + 0.5) / n) * math.sqrt(2 / n)
    matrix[0] = math.sqrt(1 / n)
    return matrix


def dct(x: Grid, on: Basis) -> Grid:
    """Xhat[p, q] = sum_hw D_H[p, h] X[h, w] D_W[q, w], per channel."""
    return along_columns(on.columns, along_rows(on.rows, x))  # rows first: tokens cut from a longer list need no copy


def inverse_dct(spectrum: Grid, on: Basis) -> Grid:
    """The grid whose DCT is `spectrum`."""
    return along_rows(on.rows.T, along_columns(on.columns.T, spectrum))


def along_rows(matrix: Float[Tensor, "height height"], x: Grid) -> Grid:
    """Applies a matrix to the height of every column, as one matrix product on (H, W * channels)."""
    return torch.matmul(matrix, x.flatten(2)).view_as(x)


def along_columns(matrix: Float[Tensor, "width width"], x: Grid) -> Grid:
    """Applies a matrix to the width of every row."""
    return torch.matmul(matrix, x)


def heat_gain(laplace: Float[Tensor, "height width"], k: PerChannel, t: PerChannel) -> Gain:
    """exp(-k t L): du/dt = k Laplace(u), u(0) = X."""
    return torch.exp(-laplace[..., None] * k * t)


def wave_gain(laplace: Float[Tensor, "height width"], c: PerChannel, t: PerChannel) -> Gain:
    """cos(c t sqrt(L)): d2u/dt2 = c^2 Laplace(u), u(0) = X, u'(0) = 0."""
    return torch.cos(laplace.sqrt()[..., None] * c * t)


def heat(x: Grid, k: PerChannel, t: PerChannel) -> Grid:
    """The temperature at time `t` of a plate that starts as `x`, diffusivity `k` in tokens^2 per unit of time."""
    on = basis_of(x)
    return inverse_dct(heat_gain(on.laplace, k, t) * dct(x, on), on)


def wave(x: Grid, c: PerChannel, t: PerChannel) -> Grid:
    """The height at time `t` of a membrane that starts at rest as `x`, wave speed `c` in tokens per unit of time."""
    on = basis_of(x)
    return inverse_dct(wave_gain(on.laplace, c, t) * dct(x, on), on)


def poisson(x: Grid, source: Float[Tensor, "height width"]) -> Grid:
    """The potential u of mean 0 with -Laplace(u) = f - mean(f), f = source * x."""
    on = basis_of(x)
    return inverse_dct(on.inverse_laplace[..., None] * dct(source[..., None] * x, on), on)


def mixture(
    x: Grid,
    k: PerChannel,
    c: PerChannel,
    t: PerChannel,
    source: Float[Tensor, "height width"],
    weights: Float[Tensor, "batch 3"],
) -> Grid:
    """Y = a1 heat + a2 wave + a3 poisson, the weights `a` per image: two transforms forth, one back."""
    on = basis_of(x)
    a1, a2, a3 = weights[:, :, None, None, None].unbind(1)
    filtered = (a1 * heat_gain(on.laplace, k, t) + a2 * wave_gain(on.laplace, c, t)) * dct(x, on)
    potential = a3 * on.inverse_laplace[..., None] * dct(source[..., None] * x, on)
    return inverse_dct(filtered + potential, on)


def basis_of(x: Grid) -> Basis:
    """The constants of the grid that `x` lies on."""
    return basis(x.shape[1], x.shape[2], dtype=x.dtype, device=x.device)
