"""Linear probe: the backbone stays as it is and only the head is trained."""

import torch
from torch import nn


def attach(model: nn.Module, *, generator: torch.Generator | None) -> None:
    """Adds nothing."""
