"""SSF: Lian et al., "Scaling & Shifting Your Features", NeurIPS 2022, arXiv 2210.08823."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from moppa.peft.affine import append_scale_and_shift
from moppa.peft.blocks import find_blocks
from moppa.peft.inject import wrap_module
from moppa.utils import validate
from moppa.utils.errors import UserError


class ScaledTokens(nn.Module):
    """gamma * f(x) + beta, with gamma = 1 and beta = 0 at the start."""

    def __init__(self, inner: nn.Module, dim: int) -> None:
        super().__init__()
        self.inner = inner
        self.gamma, self.beta = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return torch.addcmul(self.beta, self.gamma, self.inner(x))


def attach(model: Any, *, before_pooling: bool) -> None:
    """Makes every linear layer, convolution and LayerNorm return gamma * y + beta, except the head.

    Starts from the frozen model, gamma = 1 and beta = 0; the authors draw both around that with a std of 0.02. Both
    merge into the operation's weight and bias, as in the paper. Some ViTs average their tokens before the last norm.
    Their tokens are scaled `before_pooling`, as in the authors' code, which does not merge, or else after that norm.

    Raises:
        UserError: if the model has no known blocks, or an operation without a bias.
    """
    validate.boolean("before_pooling", before_pooling)
    find_blocks(model)  # raises for a model of another family
    operations = scaled_operations(model)
    scales_tokens = before_pooling and operations.get("fc_norm") is not None
    if scales_tokens:
        del operations["fc_norm"]
    for name, operation in operations.items():
        if operation.weight is None or operation.bias is None:
            raise UserError(
                f"SSF shifts the bias of every operation, and {name} of {type(model).__name__} has none; "
                f"choose another backbone or another method"
            )
    for operation in operations.values():
        gamma = nn.Parameter(torch.ones(len(operation.bias)))
        append_scale_and_shift(operation, scale=gamma, shift=nn.Parameter(torch.zeros_like(gamma)))
    if scales_tokens:
        wrap_module(model, "norm", partial(ScaledTokens, dim=model.embed_dim))


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
