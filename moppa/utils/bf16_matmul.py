"""Products of bfloat16 on a processor without bfloat16 units: in float32, then rounded once, as such units compute."""

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
PRODUCTS = {
    aten.mm,
    aten.addmm,
    aten.bmm,
    aten.baddbmm,
    aten.convolution,
    aten.convolution_backward,
    ATTENTION,
    aten._scaled_dot_product_flash_attention_for_cpu_backward,
}


def bf16_products(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Returns the context of a forward or backward pass in which products of bfloat16 are fast on this device.

    Without it a CPU that has no bfloat16 units takes about nine times as long. On any other device, in float32 and in a
    compiled graph it changes nothing.
    """
    is_slow = device.type == "cpu" and precision != "float32" and not has_bf16_units()
    return ProductsInFloat32() if is_slow and not torch.compiler.is_compiling() else contextlib.nullcontext()


@lru_cache
def has_bf16_units() -> bool:
    """Returns whether oneDNN multiplies matrices of bfloat16 on this processor."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class ProductsInFloat32(TorchDispatchMode):
    """Computes products of bfloat16 tensors, and attention, in float32 and rounds the results to bfloat16."""

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        settings = kwargs or {}
        with self:  # in inference mode an operation such as linear arrives here before torch takes it apart
            decomposed = func.decompose(*args, **settings)
        if decomposed is not NotImplemented:
            return decomposed
        if func.overloadpacket not in PRODUCTS or args[0].dtype != torch.bfloat16:
            return func(*args, **settings)
        results = func(*tree_map_only(Tensor, Tensor.float, args), **tree_map_only(Tensor, Tensor.float, settings))
        if func.overloadpacket is ATTENTION:
            return results[0].bfloat16(), results[1]  # the logarithms of its sums stay in float32
        return tree_map_only(Tensor, Tensor.bfloat16, results)
