"""BitFit: Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning", ACL 2022, arXiv 2106.10199."""

from torch import nn


def attach(model: nn.Module) -> None:
    """Unfreezes every bias: of the linear layers, the norms and the patch embedding.

    The relative position bias of a Swin stays frozen, since it is no bias of a layer.
    """
    for module in model.modules():
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            bias.requires_grad_(True)
