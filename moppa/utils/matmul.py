"""How a CPU computes the products of linear layers: as torch does, or as convolutions of one pixel.

torch gives a product to MKL, which leaves the 512-bit units of AMD's processors idle, and a convolution to oneDNN,
which uses them. The two give the same to rounding; with the same choice, the same bytes.
"""

import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from moppa.utils import validate

BACKENDS = ("auto", "torch", "onednn")
FEWEST_TOKENS = 4  # of an image; with two it took a third longer than torch's product
in_use = "torch"


def set_matmul_backend(way: str) -> None:
    """Lets this process compute on a CPU by torch's products or by oneDNN's; auto: oneDNN's where MKL is the slower.

    Raises:
        UserError: for a way that is none.
    """
    validate.one_of("run.matmul_backend", way, BACKENDS)
    global in_use  # as torch's number of threads is
    in_use = ("onednn" if mkl_is_slower() else "torch") if way == "auto" else way


def matmul_backend() -> str:
    """torch or onednn."""
    return in_use


def mkl_is_slower() -> bool:
    """Whether this is a processor of AMD's with 512-bit units, and a torch that would leave them idle."""
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return has_both and torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in maker()


def maker() -> str:
    """Words of the system about the processor, its maker's name among them."""
    listed = Path("/proc/cpuinfo")
    return listed.read_text() if listed.exists() else platform.processor()


def linear(
    x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_out d_in"], bias: Float[Tensor, " d_out"] | None
) -> Float[Tensor, "*batch d_out"]:
    """x W^T + b, by oneDNN where that is in use: for tokens in float32 on a CPU, outside of compiled graphs."""
    if not uses_onednn(x, weight):
        return F.linear(x, weight, bias)
    if bias is not None and bias.requires_grad and not weight.requires_grad:
        return linear(x, weight, None) + bias  # oneDNN would make the weight's gradient too
    y = F.conv2d(as_pixels(x), weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def weight_gradient(x: Float[Tensor, "*batch d_in"], dy: Float[Tensor, "*batch d_out"]) -> Float[Tensor, "d_out d_in"]:
    """dy^T x, what W gets of y = x W^T; both ways are fastest where d_out is the small one."""
    if not uses_onednn(x, dy):
        return dy.flatten(0, -2).T @ x.flatten(0, -2)
    return conv2d_weight(as_pixels(x), (dy.shape[-1], x.shape[-1], 1, 1), as_pixels(dy))[:, :, 0, 0]


def uses_onednn(x: Tensor, other: Tensor) -> bool:
    """Whether a product of the two is to be a convolution."""
    if in_use != "onednn" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return x.is_cpu and x.dtype == other.dtype == torch.float32 and x.shape[1:-1].numel() >= FEWEST_TOKENS


def as_pixels(x: Float[Tensor, "images *tokens channels"]) -> Float[Tensor, "images channels count 1"]:
    """The tokens of each image as a column of pixels, the channels last in memory.

    One column for all would do, but torch gives a single image to oneDNN only where it has many channels and threads.
    """
    return x.reshape(len(x), -1, 1, x.shape[-1]).permute(0, 3, 1, 2)


class Linear(nn.Linear):
    """A linear layer that goes the way that is in use when it computes."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def as_chosen(model: nn.Module) -> nn.Module:
    """The model itself, whose linear layers from now on go the way that is in use when they compute."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
    return model
