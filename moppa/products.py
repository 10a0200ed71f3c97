"""How a CPU computes a frozen layer's matrix products: as torch does, or as convolutions of one pixel.

torch gives a product to MKL, which leaves the 512-bit units of AMD's processors idle, and a convolution to oneDNN,
which uses them. The two give the same to rounding; with the same choice, the same bytes.
"""

import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa import check

WAYS = ("auto", "torch", "onednn")
in_use = "torch"


def use_products(way: str) -> None:
    """Lets this process compute on a CPU by torch's products or by oneDNN's; auto: oneDNN's where MKL is the slower.

    Raises:
        UserError: for a way that is none.
    """
    check.one_of("run.products", way, WAYS)
    global in_use  # as torch's number of threads is
    in_use = ("onednn" if mkl_is_slower() else "torch") if way == "auto" else way


def products_in_use() -> str:
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
    """x W^T + b, in the way that was chosen where that is one: float32 on a CPU, not in a graph that is compiled."""
    is_torchs = in_use == "torch" or not (x.is_cpu and x.dtype == weight.dtype == torch.float32)
    if is_torchs or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    pixels = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # one column of them, channels last in memory
    y = F.conv2d(pixels, weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """A linear layer that is computed in the way that was chosen."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def as_chosen(model: nn.Module) -> nn.Module:
    """The model itself, whose linear layers from now on computed in the way that is chosen when they are."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
    return model
