"""Writes the pretrained student as it ships with the package."""

from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from moppa.utils.atomic import atomic_write


def write_weights(vit: nn.Module, file: Path) -> None:
    """Writes all tensors of the backbone as float16 safetensors with timm's names."""
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in vit.state_dict().items()}
    with atomic_write(file) as temporary:
        safetensors.torch.save_file(tensors, temporary)
