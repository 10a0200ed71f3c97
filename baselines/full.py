"""Full fine-tuning: every tensor of the backbone is trained, from its pretrained value."""

import torch
from torch import nn


def attach(model: nn.Module, *, generator: torch.Generator | None) -> None:  # noqa: ARG001
    """Adds nothing and unfreezes all there is."""
    model.requires_grad_(True)
