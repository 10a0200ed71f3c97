"""The precision of a model: which of its tensors are stored in bfloat16, and in which dtype its norms compute."""

from typing import Any

import torch
from torch import nn


def to_precision(model: nn.Module, precision: str) -> nn.Module:
    """Prepares a frozen model with a method for `run.precision`, in place.

    With bf16 the frozen parameters are stored in bfloat16, so that no step has to cast them, and timm's norms return
    bfloat16 under autocast instead of float32. Activations then stay in bfloat16 from block to block; norms and softmax
    still sum in float32 inside of their kernels. Trained parameters and buffers stay as they are. The other precisions
    change nothing.
    """
    if precision != "bf16":
        return model
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)
    for module in model.modules():
        norm: Any = module
        if hasattr(norm, "_fast_norm"):
            norm._fast_norm = True
    return model
