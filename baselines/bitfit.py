"""BitFit: Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning", ACL 2022, arXiv 2106.10199."""

import torch
from torch import nn


def attach(model: nn.Module, *, generator: torch.Generator | None) -> None:  # noqa: ARG001
    """Unfreezes every bias term, section 3: that of the linear layers, of the norms and of the patch embedding.

    A Swin's tables of relative positions stay frozen: they shift attention by place, and are no term of a layer.
    """
    for module in model.modules():
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            bias.requires_grad_(True)
