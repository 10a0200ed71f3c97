"""SSF: Lian et al., "Scaling & Shifting Your Features", NeurIPS 2022, arXiv 2210.08823."""

import torch
from jaxtyping import Float
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from moppa.peft.blocks import find_blocks
from moppa.peft.inject import DirectLinear, parametrize_weights
from moppa.utils.errors import UserError


class ScaledWeight(nn.Module):
    """W' = gamma * W by rows: the weight of y' = gamma * y + beta, section 3.2, re-parameterised as the paper does."""

    def __init__(self, scale: nn.Parameter) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, weight: Float[Tensor, "d_out *rest"]) -> Float[Tensor, "d_out *rest"]:
        return self.scale.view(-1, *[1] * (weight.ndim - 1)) * weight


class ScaledShiftedBias(nn.Module):
    """b' = gamma * b + beta: the bias of the same y', with the very gamma of the weight."""

    def __init__(self, scale: nn.Parameter) -> None:
        super().__init__()
        self.scale, self.shift = scale, nn.Parameter(torch.zeros_like(scale))

    def forward(self, bias: Float[Tensor, " d_out"]) -> Float[Tensor, " d_out"]:
        return self.scale * bias + self.shift

    def applied(self, layer: DirectLinear, x: Tensor) -> Tensor:
        """gamma * y + beta, as section 3.2 writes it."""
        return torch.addcmul(self.shift, self.scale, layer.plain(x))


def attach(model: nn.Module, *, generator: torch.Generator | None) -> None:  # noqa: ARG001
    """Scales and shifts what every linear layer, convolution and LayerNorm gives out, but not the head.

    Starts from the frozen model, gamma = 1 and beta = 0; the authors draw both around that with a std of 0.02.

    Raises:
        UserError: for a model without blocks that we know, or with an operation that has no bias to shift.
    """
    find_blocks(model)  # raises for a model whose operations we do not know
    # the authors leave a Swin's merging of patches as it is, and shift the norm before it
    spared = [module.reduction for module in model.modules() if isinstance(module, PatchMerging)]
    spared.append(model.get_classifier())
    operations = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm) and all(module is not other for other in spared)
    }
    for name, operation in operations.items():
        if operation.weight is None or operation.bias is None:
            raise UserError(
                f"SSF shifts the bias of every operation, and {name} of {type(model).__name__} has none; "
                f"choose another backbone or another method"
            )
    for operation in operations.values():
        scale = nn.Parameter(torch.ones(len(operation.bias)))
        parametrize_weights(operation, weight=ScaledWeight(scale), bias=ScaledShiftedBias(scale))
