"""The matrix multiplication of linear layers on a CPU: torch's own, or oneDNN's 1x1 convolution.

torch multiplies matrices with MKL, which does not use the 512-bit units of AMD's processors, and convolves with oneDNN,
which does. Both backends agree up to rounding, and each is deterministic. Models and methods call `F.linear`;
`use_backend` redirects it while a forward pass runs.
"""

import contextlib
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.grad import conv2d_weight
from torch.overrides import TorchFunctionMode

from moppa.utils import validate

BACKENDS = ("auto", "torch", "onednn")
MIN_TOKENS = 4  # of an image: with two tokens oneDNN took a third longer than torch
active_backend = "torch"


def set_matmul_backend(backend: str) -> None:
    """Chooses the backend for this process. `auto` is oneDNN if MKL is slower on this processor, else torch.

    Raises:
        SettingError: if the backend is unknown.
    """
    validate.one_of("run.matmul_backend", backend, BACKENDS)
    global active_backend  # one per process, like torch's number of threads
    active_backend = ("onednn" if is_mkl_slower() else "torch") if backend == "auto" else backend


def matmul_backend() -> str:
    """Returns the backend in use: torch or onednn."""
    return active_backend


def is_mkl_slower() -> bool:
    """Returns whether this is an AMD processor with 512-bit units that MKL would not use."""
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return has_both and torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in cpu_info()


def cpu_info() -> str:
    """Returns the system's description of the processor, which includes its vendor."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.exists() else platform.processor()


def use_backend() -> AbstractContextManager[Any]:
    """Returns the context for a forward pass: every `F.linear` in it uses the backend. With torch it does nothing.

    The backward pass follows by itself. It runs outside of the context, so a `torch.autograd.Function` calls `linear`
    and `weight_gradient` explicitly.
    """
    return OneDNNLinear() if active_backend == "onednn" else contextlib.nullcontext()


class OneDNNLinear(TorchFunctionMode):
    """Redirects `F.linear` to `linear`. Every torch function passes it, at up to 10 microseconds each."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        settings: Mapping[str, Any] = kwargs or {}
        if func is F.linear:
            return redirected_linear(*args, **settings)
        return func(*args, **settings)


def redirected_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns `linear`, with the parameter names of `F.linear`."""
    return linear(input, weight, bias)


def linear(
    x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_out d_in"], bias: Float[Tensor, " d_out"] | None
) -> Float[Tensor, "*batch d_out"]:
    """Returns x W^T + b by the backend in use. oneDNN takes float32 tokens on a CPU, outside of compiled graphs."""
    if not uses_onednn(x, weight):
        return F.linear(x, weight, bias)
    if bias is not None and bias.requires_grad and not weight.requires_grad:
        return linear(x, weight, None) + bias  # oneDNN would compute the weight's gradient too
    y = F.conv2d(as_pixels(x), weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def weight_gradient(x: Float[Tensor, "*batch d_in"], dy: Float[Tensor, "*batch d_out"]) -> Float[Tensor, "d_out d_in"]:
    """Returns dy^T x, the gradient of W in y = x W^T. Both backends are fastest if d_out is the smaller side."""
    if not uses_onednn(x, dy):
        return dy.flatten(0, -2).T @ x.flatten(0, -2)
    return conv2d_weight(as_pixels(x), (dy.shape[-1], x.shape[-1], 1, 1), as_pixels(dy))[:, :, 0, 0]


def uses_onednn(x: Tensor, other: Tensor) -> bool:
    """Returns whether the product of the two tensors is computed as a convolution."""
    if active_backend != "onednn" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return x.is_cpu and x.dtype == other.dtype == torch.float32 and x.shape[1:-1].numel() >= MIN_TOKENS


def as_pixels(x: Float[Tensor, "images *tokens channels"]) -> Float[Tensor, "images channels count 1"]:
    """Returns the tokens of each image as one column of pixels, with the channels last in memory.

    One column for all images would do, but torch passes a single image to oneDNN only if it has many channels and
    threads.
    """
    return x.reshape(len(x), -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
