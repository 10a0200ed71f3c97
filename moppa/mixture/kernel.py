"""MoPPA's operator as Triton kernels: one forward, one backward.

A program computes at most 8 channels of one image, a tile. The grid of tokens stays in registers and shared memory from
its only load to its only store. A tile is a matrix (height, channels * width), padded to powers of two of at least 16.
The transform of the rows is a product from the left and, after a reshape, that of the columns one from the right.
Everything is computed in float32.

A bottleneck is small: 64 images of 14 x 14 tokens with 8 channels are 0.2 MB in bfloat16, and stay in the L2 cache.
They are 64 programs of 8 warps, less than one per multiprocessor, so the latency of a program limits the speed, and not
memory. What costs more in plain PyTorch are the many launches for tensors of a few kilobytes. Therefore the kernels
take the trained offsets and compute constants and gains themselves. A wider bottleneck has more tiles. The gradients of
offsets are sums over images; each program writes its summand, because atomic additions have no fixed order.
"""

# ruff: noqa: N803 - Triton's constants are capitals

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def transform(x, left, right, HP: tl.constexpr, WP: tl.constexpr, CT: tl.constexpr):
    """Returns left X right for each channel of a tile (HP, CT * WP)."""
    x = tl.reshape(tl.dot(left, x, input_precision="ieee"), (HP * CT, WP))
    return tl.reshape(tl.dot(x, right, input_precision="ieee"), (HP, CT * WP))


@triton.jit
@no_type_check
def load_matrix(pointer, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """Returns a square matrix, padded with zeros."""
    row, column = tl.arange(0, PADDED)[:, None], tl.arange(0, PADDED)[None, :]
    return tl.load(pointer + row * SIZE + column, mask=(row < SIZE) & (column < SIZE), other=0.0)


@triton.jit
@no_type_check
def load_positive(pointer, channel, start, rate, C: tl.constexpr):
    """Returns softplus(start + rate * offset), and its derivative by the offset."""
    x = start + rate * tl.load(pointer + channel, mask=channel < C, other=0.0)
    small = tl.exp(-tl.abs(x))
    total = 1 + small
    rounded = total - 1  # log(total) / rounded is exact although `total` is rounded
    log1p = tl.where(rounded == 0, small, tl.log(total) * small / tl.where(rounded == 0, 1.0, rounded))
    return tl.maximum(x, 0.0) + log1p, rate * tl.where(x > 0, 1.0, small) / total


@triton.jit
@no_type_check
def sum_channels(x, WP: tl.constexpr, CT: tl.constexpr):
    """Returns the sum of each channel of a tile (HP, CT * WP)."""
    return tl.sum(tl.reshape(tl.sum(x, axis=0), (CT, WP)), axis=1)


@triton.jit
@no_type_check
def forward_kernel(
    x,
    weights,
    diffusivity,
    speed,
    time,
    source,
    rows,
    columns,
    laplace,
    inverse_laplace,
    y,
    weight_stride,
    start_diffusivity,
    start_speed,
    start_time,
    rate,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    PREFIX: tl.constexpr,
    HP: tl.constexpr,
    WP: tl.constexpr,
    CT: tl.constexpr,
    PP: tl.constexpr,
    IDENTITY: tl.constexpr,
    HEAT: tl.constexpr,
    WAVE: tl.constexpr,
    POISSON: tl.constexpr,
):
    """Writes Y for one tile. IDENTITY to POISSON are the columns of their weights, -1 without that prior."""
    image, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, lane = tl.arange(0, HP)[:, None], tl.arange(0, CT * WP)[None, :]
    column, channel = lane % WP, tile * CT + lane // WP
    is_place = (row < H) & (column < W)
    is_token = is_place & (channel < C)
    place = row * W + column
    first = image * ((PREFIX + H * W) * C)
    token = first + (PREFIX + place) * C + channel
    weights += image * weight_stride
    grid = tl.load(x + token, mask=is_token, other=0.0).to(tl.float32)
    left, right = load_matrix(rows, H, HP), load_matrix(columns, W, WP)
    eigenvalue = tl.load(laplace + place, mask=is_place, other=0.0)

    gain, at_zero = tl.zeros((HP, CT * WP), tl.float32), 0.0
    if IDENTITY >= 0:
        weight = tl.load(weights + IDENTITY)
        gain, at_zero = gain + weight, at_zero + weight
    if (HEAT >= 0) | (WAVE >= 0):
        t, _ = load_positive(time, channel, start_time, rate, C)
    if HEAT >= 0:
        weight = tl.load(weights + HEAT)
        k, _ = load_positive(diffusivity, channel, start_diffusivity, rate, C)
        gain, at_zero = gain + weight * tl.exp(-k * t * eigenvalue), at_zero + weight
    if WAVE >= 0:
        weight = tl.load(weights + WAVE)
        c, _ = load_positive(speed, channel, start_speed, rate, C)
        gain, at_zero = gain + weight * tl.cos(c * t * tl.sqrt(eigenvalue)), at_zero + weight

    spectrum = gain * transform(grid, left, tl.trans(right), HP, WP, CT)
    if POISSON >= 0:
        inverse = tl.load(weights + POISSON) * tl.load(inverse_laplace + place, mask=is_place, other=0.0)
        charge = 1 + rate * tl.load(source + place, mask=is_place, other=0.0)
        spectrum += inverse * transform(charge * grid, left, tl.trans(right), HP, WP, CT)
    solution = transform(spectrum, tl.trans(left), right, HP, WP, CT)
    tl.store(y + token, solution.to(y.dtype.element_ty), mask=is_token)

    if PREFIX > 0:
        index, channel = tl.arange(0, PP)[:, None], tile * CT + tl.arange(0, CT)[None, :]
        token, is_token = first + index * C + channel, (index < PREFIX) & (channel < C)
        prefix = tl.load(x + token, mask=is_token, other=0.0).to(tl.float32)
        tl.store(y + token, (at_zero * prefix).to(y.dtype.element_ty), mask=is_token)


@triton.jit
@no_type_check
def backward_kernel(
    dy,
    x,
    weights,
    diffusivity,
    speed,
    time,
    source,
    rows,
    columns,
    laplace,
    inverse_laplace,
    dx,
    dweights,
    dconstants,
    dsource,
    weight_stride,
    start_diffusivity,
    start_speed,
    start_time,
    rate,
    NUM_TILES: tl.constexpr,
    NUM_WEIGHTS: tl.constexpr,
    NUM_CONSTANTS: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    PREFIX: tl.constexpr,
    HP: tl.constexpr,
    WP: tl.constexpr,
    CT: tl.constexpr,
    PP: tl.constexpr,
    IDENTITY: tl.constexpr,
    HEAT: tl.constexpr,
    WAVE: tl.constexpr,
    POISSON: tl.constexpr,
):
    """Writes dX of one tile, and its summands of the other gradients.

    The transforms are orthonormal, so each filter is its own adjoint. The summands are those of the weights (batch,
    tiles, priors), of the offsets of time, diffusivity and speed, as far as there are (batch, offsets, channels), and
    of the source (batch, tiles, height, width).
    """
    image, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, lane = tl.arange(0, HP)[:, None], tl.arange(0, CT * WP)[None, :]
    column, channel = lane % WP, tile * CT + lane // WP
    is_place = (row < H) & (column < W)
    is_token = is_place & (channel < C)
    place = row * W + column
    first = image * ((PREFIX + H * W) * C)
    token = first + (PREFIX + place) * C + channel
    weights += image * weight_stride
    dweights += (image * NUM_TILES + tile) * NUM_WEIGHTS
    grid = tl.load(x + token, mask=is_token, other=0.0).to(tl.float32)
    dgrid = tl.load(dy + token, mask=is_token, other=0.0).to(tl.float32)
    left, right = load_matrix(rows, H, HP), load_matrix(columns, W, WP)
    eigenvalue = tl.load(laplace + place, mask=is_place, other=0.0)

    dspectrum = transform(dgrid, left, tl.trans(right), HP, WP, CT)
    product = dspectrum * transform(grid, left, tl.trans(right), HP, WP, CT)
    at_zero, dat_zero = 0.0, 0.0
    if PREFIX > 0:
        index, prefix_channel = tl.arange(0, PP)[:, None], tile * CT + tl.arange(0, CT)[None, :]
        prefix_token, is_prefix = first + index * C + prefix_channel, (index < PREFIX) & (prefix_channel < C)
        prefix = tl.load(x + prefix_token, mask=is_prefix, other=0.0).to(tl.float32)
        dprefix = tl.load(dy + prefix_token, mask=is_prefix, other=0.0).to(tl.float32)
        dat_zero += tl.sum(tl.sum(prefix * dprefix, axis=1), axis=0)

    own = tile * CT + tl.arange(0, CT)
    dconstants += image * (NUM_CONSTANTS * C) + own
    gain = tl.zeros((HP, CT * WP), tl.float32)
    if IDENTITY >= 0:
        weight = tl.load(weights + IDENTITY)
        gain, at_zero = gain + weight, at_zero + weight
        tl.store(dweights + IDENTITY, tl.sum(tl.sum(product, axis=1), axis=0) + dat_zero)
    if (HEAT >= 0) | (WAVE >= 0):
        t, t_slope = load_positive(time, channel, start_time, rate, C)
        dt = tl.zeros((HP, CT * WP), tl.float32)
    if HEAT >= 0:
        weight = tl.load(weights + HEAT)
        k, k_slope = load_positive(diffusivity, channel, start_diffusivity, rate, C)
        decay = tl.exp(-k * t * eigenvalue)
        gain, at_zero = gain + weight * decay, at_zero + weight
        tl.store(dweights + HEAT, tl.sum(tl.sum(product * decay, axis=1), axis=0) + dat_zero)
        dkt = -weight * eigenvalue * decay * product
        dt += k * dkt
        tl.store(dconstants + C, sum_channels(k_slope * t * dkt, WP, CT), mask=own < C)
    if WAVE >= 0:
        weight = tl.load(weights + WAVE)
        c, c_slope = load_positive(speed, channel, start_speed, rate, C)
        frequency = tl.sqrt(eigenvalue)
        swing = tl.cos(c * t * frequency)
        gain, at_zero = gain + weight * swing, at_zero + weight
        tl.store(dweights + WAVE, tl.sum(tl.sum(product * swing, axis=1), axis=0) + dat_zero)
        dct = -weight * frequency * tl.sin(c * t * frequency) * product
        dt += c * dct
        tl.store(dconstants + (NUM_CONSTANTS - 1) * C, sum_channels(c_slope * t * dct, WP, CT), mask=own < C)
    if (HEAT >= 0) | (WAVE >= 0):
        tl.store(dconstants, sum_channels(t_slope * dt, WP, CT), mask=own < C)

    result = transform(gain * dspectrum, tl.trans(left), right, HP, WP, CT)
    if POISSON >= 0:
        weight = tl.load(weights + POISSON)
        inverse = tl.load(inverse_laplace + place, mask=is_place, other=0.0)
        charge = 1 + rate * tl.load(source + place, mask=is_place, other=0.0)
        potential = transform(inverse * dspectrum, tl.trans(left), right, HP, WP, CT)
        result += weight * charge * potential
        tl.store(dweights + POISSON, tl.sum(tl.sum(charge * grid * potential, axis=1), axis=0))
        dcharge = tl.sum(tl.reshape(rate * weight * grid * potential, (HP, CT, WP)), axis=1)
        row, column = tl.arange(0, HP)[:, None], tl.arange(0, WP)[None, :]
        dsource += (image * NUM_TILES + tile) * (H * W)
        tl.store(dsource + row * W + column, dcharge, mask=(row < H) & (column < W))
    tl.store(dx + token, result.to(dx.dtype.element_ty), mask=is_token)
    if PREFIX > 0:
        tl.store(dx + prefix_token, (at_zero * dprefix).to(dx.dtype.element_ty), mask=is_prefix)
