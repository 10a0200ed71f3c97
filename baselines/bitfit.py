"""BitFit: Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning", ACL 2022, arXiv 2106.10199."""

from torch import nn

from moppa.peft.inject import pretrained_tensor


def attach(model: nn.Module) -> None:
    """Unfreezes every bias: of the linear layers, the norms and the patch embedding.

    The relative position bias of a Swin stays frozen, since it is no bias of a layer.
    """
    for module in model.modules():
        if (bias := pretrained_tensor(module, "bias")) is not None:
            bias.requires_grad_(True)
