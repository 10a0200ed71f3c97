"""Full fine-tuning: every tensor of the backbone is trained from its pretrained value."""

from torch import nn


def attach(model: nn.Module) -> None:
    """Unfreezes every parameter."""
    model.requires_grad_(True)
