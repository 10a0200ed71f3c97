"""The operator of MoPPA as a PyTorch operator that runs the Triton kernels, with its gradient.

It computes `physics.filter_tokens` with the gains of `Operator`, for tokens in bfloat16 or float32. For torch.compile
it is one operation, and its gradient another.
"""

import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moppa.mixture import physics

MIN_SIDE, MAX_SIDE, MAX_WIDTH = 16, 32, 64  # Triton's products have no side below 16
MAX_TILE, MAX_CHANNELS = 2048, 8  # numbers and channels in a tile
DTYPES = (torch.float32, torch.bfloat16)
ARGUMENTS = (
    "Tensor x, Tensor weights, Tensor? diffusivity, Tensor? speed, Tensor? time, Tensor? source, Tensor rows, "
    "Tensor columns, Tensor laplace, Tensor inverse_laplace, int[] priors, float[] starts"
)
FILTERS = ("identity", "heat", "wave", "poisson")


class Parameters(NamedTuple):
    """The trained offsets of the constants, and the source; None for those that no prior uses."""

    diffusivity: Tensor | None
    speed: Tensor | None
    time: Tensor | None
    source: Tensor | None


def fits(grid: tuple[int, int], width: int) -> bool:
    """Returns whether the kernels take a grid of this size with this number of channels."""
    return max(grid) <= MAX_SIDE and width <= MAX_WIDTH


@cache
def works(device: torch.device) -> bool:
    """Returns whether the kernels run on a device. If they should but do not, warns once and says why."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    try:
        basis = physics.make_basis(2, 2, dtype=torch.float32, device=device)
        x, weights = torch.ones(1, 4, 1, device=device), torch.ones(1, 1, device=device)
        solve(x, weights, Parameters(None, None, None, None), basis, priors=("identity",), starts=(0, 0, 0), rate=1.0)
    except Exception as error:  # of the compiler: any
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"MoPPA computes without its Triton kernel, which does not run here ({reason})", file=sys.stderr)
        return False
    return True


def solve(
    x: physics.Tokens,
    weights: Tensor,
    parameters: Parameters,
    basis: physics.Basis,
    *,
    priors: Sequence[str],
    starts: Sequence[float],
    rate: float,
) -> physics.Tokens:
    """Returns the mixture of the priors' solutions in the dtype of `x`.

    Args:
        x: Tokens, prefix first.
        weights: Mixing weights, one row per image or one row for all (#batch, priors).
        parameters: Parameters of the constants.
        basis: Constants of the grid.
        priors: The names of the weights' columns.
        starts: softplus^-1 of the initial diffusivity, speed and time.
        rate: Factor on all parameters.
    """
    columns = [priors.index(name) if name in priors else -1 for name in FILTERS]
    numbers = [float(number) for number in (*starts, rate)]
    return torch.ops.moppa.mixture(x.contiguous(), weights.float().contiguous(), *parameters, *basis, columns, numbers)


def run_forward(x: Tensor, weights: Tensor, *arguments: Any) -> Tensor:
    """Returns Y; the arguments are those of `solve`, flat."""
    from moppa.mixture.kernel import forward_kernel  # needs Triton

    *tensors, priors, starts = arguments
    x = x.contiguous()  # it is, unless a compiler changed its layout
    shape, y = tile_shape(x, tensors, priors), torch.empty_like(x)
    launch: Any = forward_kernel[programs(x, shape)]
    with torch.cuda.device_of(x):  # Triton launches on the current device
        launch(x, weights, *tensors, y, row_stride(weights), *starts, **shape)
    return y


def run_backward(dy: Tensor, x: Tensor, weights: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Returns dX, and the gradients of weights, constants and source as summands, which no program adds up."""
    from moppa.mixture.kernel import backward_kernel  # needs Triton

    *tensors, priors, starts = arguments
    dy, x = dy.contiguous(), x.contiguous()
    shape, gradients = tile_shape(x, tensors, priors), empty_gradients(dy, x, weights, *arguments)
    counts = {"NUM_TILES": gradients[1].shape[1], "NUM_WEIGHTS": weights.shape[1], "NUM_CONSTANTS": count(tensors)}
    launch: Any = backward_kernel[programs(x, shape)]
    with torch.cuda.device_of(x):
        launch(dy, x, weights, *tensors, *gradients, row_stride(weights), *starts, **counts, **shape)
    return gradients


def empty_solution(x: Tensor, *_: Any) -> Tensor:
    """Returns a tensor like Y."""
    return torch.empty_like(x)


def empty_gradients(_: Tensor, x: Tensor, weights: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Returns tensors like those of the backward pass."""
    *tensors, priors, _starts = arguments
    num_images, num_tiles = programs(x, tile_shape(x, tensors, priors))
    shapes = [(num_tiles, weights.shape[1]), (count(tensors), x.shape[2]), (num_tiles, *tensors[6].shape)]
    return torch.empty_like(x), *(x.new_empty(num_images, *shape, dtype=torch.float32) for shape in shapes)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - torch's signature
    """Saves the arguments for the backward pass."""
    *tensors, ctx.priors, ctx.starts = inputs
    ctx.save_for_backward(*tensors)


def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """Returns the gradients of all arguments."""
    x, weights, *tensors = ctx.saved_tensors
    diffusivity, speed, time, source, *_ = tensors
    dx, dweights, dconstants, dsource = torch.ops.moppa.mixture_backward(
        dy.contiguous(), x, weights, *tensors, ctx.priors, ctx.starts
    )
    dweights = dweights.sum((0, 1))[None] if len(weights) == 1 else dweights.sum(1)
    rows = iter(dconstants.sum(0).unbind())
    dtime, ddiffusivity, dspeed = (None if tensor is None else next(rows) for tensor in (time, diffusivity, speed))
    constants = (ddiffusivity, dspeed, dtime, None if source is None else dsource.sum((0, 1)))
    return dx, dweights, *constants, *[None] * 6


LIBRARY = torch.library.Library("moppa", "FRAGMENT")
LIBRARY.define(f"mixture({ARGUMENTS}) -> Tensor")
LIBRARY.define(f"mixture_backward(Tensor dy, {ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)")
LIBRARY.impl("mixture", run_forward, "CompositeExplicitAutograd")
LIBRARY.impl("mixture_backward", run_backward, "CompositeExplicitAutograd")
torch.library.register_fake("moppa::mixture", empty_solution, lib=LIBRARY)
torch.library.register_fake("moppa::mixture_backward", empty_gradients, lib=LIBRARY)
torch.library.register_autograd("moppa::mixture", backward, setup_context=setup_context, lib=LIBRARY)


def tile_shape(x: Tensor, tensors: Sequence[Tensor | None], priors: Sequence[int]) -> dict[str, int]:
    """Returns the constants and options of the kernels. With 8 warps nothing spills from registers."""
    laplace: Any = tensors[6]
    (height, width), (_, num_tokens, num_channels) = laplace.shape, x.shape
    padded_height, padded_width = max(MIN_SIDE, next_power_of_2(height)), max(MIN_SIDE, next_power_of_2(width))
    num_prefix = num_tokens - height * width
    tile = min(MAX_TILE // (padded_height * padded_width), MAX_CHANNELS, next_power_of_2(num_channels))
    return {
        **dict(zip("HWC", (height, width, num_channels), strict=True)),
        "PREFIX": num_prefix,
        "HP": padded_height,
        "WP": padded_width,
        "CT": tile,
        "PP": next_power_of_2(num_prefix),
        **dict(zip((name.upper() for name in FILTERS), priors, strict=True)),
        "num_warps": 8,
        "enable_fp_fusion": True,
    }


def programs(x: Tensor, shape: dict[str, int]) -> tuple[int, int]:
    """Returns the numbers of images and of tiles of an image: one program for each pair."""
    return len(x), -(-shape["C"] // shape["CT"])


def row_stride(weights: Tensor) -> int:
    """Returns the distance between the weights of two images, 0 if they share one row."""
    return 0 if len(weights) == 1 else weights.shape[1]


def count(tensors: Sequence[Tensor | None]) -> int:
    """Returns the number of constants of the priors."""
    return sum(tensor is not None for tensor in tensors[:3])


def next_power_of_2(number: int) -> int:
    """Returns the smallest power of 2 that is at least `number`, and at least 1."""
    return 1 << max(number - 1, 0).bit_length()
