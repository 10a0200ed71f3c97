"""FreqFit: Ly and Nguyen, "Enhancing Parameter-Efficient Fine-Tuning of Vision Transformers through Frequency-Based
Adaptation", arXiv 2411.19297.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moppa.peft.blocks import BlockInfo, Layout, find_blocks, from_tokens, to_tokens
from moppa.peft.inject import wrap_module
from moppa.utils import validate

FILTER_TYPES = ("complex", "real")


class SpectralFilter(nn.Module):
    """x + gamma F^-1(K F(x)) + beta on the grid of tokens, channel by channel; K = 0, gamma = 1, beta = 0 at the start.

    F is the Fourier transform over height and width; K is complex, or real. Prefix tokens have no place on the grid and
    stay as they are.
    """

    def __init__(self, block: BlockInfo, *, filter_type: str) -> None:
        super().__init__()
        self.grid, self.num_prefix_tokens = block.grid, block.num_prefix_tokens
        self.layout: Layout = block.layout
        height, width = block.grid
        parts = (2,) if filter_type == "complex" else ()
        self.filter = nn.Parameter(torch.zeros(height, width // 2 + 1, block.dim, *parts))
        self.scale, self.shift = nn.Parameter(torch.ones(block.dim)), nn.Parameter(torch.zeros(block.dim))

    def forward(self, x: Tensor) -> Tensor:
        patches = to_tokens(x, self.layout)[:, self.num_prefix_tokens :]
        dtype = torch.promote_types(self.scale.dtype, torch.float32)  # half precision is too coarse for a spectrum
        change = self.scale * self.filtered(patches.unflatten(1, self.grid).to(dtype)) + self.shift
        change = F.pad(change.flatten(1, 2).to(x.dtype), (0, 0, self.num_prefix_tokens, 0))
        return x + from_tokens(change, self.layout, like=x)

    def filtered(self, image: Tensor) -> Tensor:
        """Returns the grid (B, H, W, C) whose spectrum is that of the image times K."""
        gain = self.filter.to(image.dtype)
        gain = gain if gain.ndim == 3 else torch.view_as_complex(gain)
        spectrum = gain * torch.fft.rfft2(image, dim=(1, 2), norm="ortho")
        # axis by axis: cuFFT's transform of both has another result if the spectrum is not that of a real image
        rows = torch.fft.ifft(spectrum, dim=1, norm="ortho")
        return torch.fft.irfft(rows, n=self.grid[1], dim=2, norm="ortho")


class FilteredBlock(nn.Module):
    """after(f(before(x))), with f the block."""

    def __init__(self, inner: nn.Module, *, before: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.after(self.inner(self.before(x), **kwargs))


def attach(model: nn.Module, *, filter_type: str) -> None:
    """Filters the tokens before every block, and after the last one unless the head reads the class token alone.

    The authors' code has the last filter in every model. A class token does not pass through a filter, so that there
    the last one has no effect. They attach FreqFit together with another method as well.
    """
    validate.one_of("filter_type", filter_type, FILTER_TYPES)
    blocks = find_blocks(model)
    make = partial(SpectralFilter, filter_type=filter_type)
    for block in blocks:
        is_filtered_after = block is blocks[-1] and getattr(model, "global_pool", None) != "token"
        after = make(block) if is_filtered_after else nn.Identity()
        wrap_module(block.owner, block.name, partial(FilteredBlock, before=make(block), after=after))
