"""The pretrained student as it is shipped: float16 safetensors in timm's own names, without what was thrown away."""

from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from moppa.utils.atomic import atomic_write


def write_weights(vit: nn.Module, file: Path) -> None:
    """Writes every tensor of the backbone, rounded to float16."""
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in vit.state_dict().items()}
    with atomic_write(file) as temporary:
        safetensors.torch.save_file(tensors, temporary)
