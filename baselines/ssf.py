"""SSF: Lian et al., "Scaling & Shifting Your Features", NeurIPS 2022, arXiv 2210.08823."""

from typing import Any

import torch
from timm.models.swin_transformer import PatchMerging
from torch import nn

from moppa.peft.affine import append_scale_and_shift
from moppa.peft.blocks import find_blocks
from moppa.utils.errors import UserError


def attach(model: nn.Module) -> None:
    """Makes every linear layer, convolution and LayerNorm return gamma * y + beta, except the head.

    Starts from the frozen model, gamma = 1 and beta = 0; the authors draw both around that with a std of 0.02. Both
    merge into the operation's weight and bias, as in the paper.

    Raises:
        UserError: if the model has no known blocks, or an operation without a bias.
    """
    find_blocks(model)  # raises for a model of another family
    operations = scaled_operations(model)
    for name, operation in operations.items():
        if operation.weight is None or operation.bias is None:
            raise UserError(
                f"SSF shifts the bias of every operation, and {name} of {type(model).__name__} has none; "
                f"choose another backbone or another method"
            )
    for operation in operations.values():
        gamma = nn.Parameter(torch.ones(len(operation.bias)))
        append_scale_and_shift(operation, scale=gamma, shift=nn.Parameter(torch.zeros_like(gamma)))


def scaled_operations(model: Any) -> dict[str, Any]:
    """Returns the operations that SSF scales and shifts, by name.

    As in the authors' code, the linear layer of a Swin's patch merging is not one; the norm before it is.
    """
    excluded = [module.reduction for module in model.modules() if isinstance(module, PatchMerging)]
    excluded.append(model.get_classifier())
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm) and all(module is not other for other in excluded)
    }
