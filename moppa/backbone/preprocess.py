"""How a checkpoint expects its images: size, interpolation and normalization."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """The input that a checkpoint was trained on: square images, normalized as (x / 255 - mean) / std per channel.

    Args:
        size: Height and width in pixels.
        mean: Mean per channel.
        std: Standard deviation per channel.
        interpolation: Name of the interpolation for resizing, as in timm.
        pool: How the model pools its tokens into the vector that the head classifies.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    pool: str

    def normalize(self, images: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, "batch 3 height width"]:
        """Returns new float32 images on the same device; the input does not change."""
        # one operation for a row of pixels, which is three times as fast as one per channel
        mean, std = (repeat_on_device(values, images.shape[2], images.device) for values in (self.mean, self.std))
        rows = images.flatten(2).to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)
        return rows.view(images.shape).permute(0, 3, 1, 2)


@lru_cache
def repeat_on_device(values: tuple[float, ...], num_repeats: int, device: torch.device) -> Tensor:
    """Returns the repeated values as a tensor. It is copied to the device once, so that no step waits for it."""
    with torch.inference_mode(False):  # a training step may use the same tensor
        return torch.tensor(values * num_repeats, device=device)
