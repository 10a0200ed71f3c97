"""Inserts MoPPA units into the blocks of a timm model."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moppa.mixture.settings import MixtureSettings, accepts_settings, parse_settings
from moppa.mixture.unit import Tokens, Unit
from moppa.peft.blocks import Layout, find_blocks, from_tokens, to_tokens
from moppa.peft.inject import wrap_module
from moppa.utils.errors import SettingError, UserError


@accepts_settings
def attach(model: nn.Module, *, generator: torch.Generator | None, **settings: Any) -> None:
    """Inserts one unit before the attention of every block of a vision transformer, Swin or ConvNeXt.

    The keyword arguments are the fields of `MixtureSettings`. `generator` draws the initial weights.

    Raises:
        UserError: If a setting is wrong, the model has no blocks or no grid, or it has units already.
    """
    insert_units(model, parse_settings(settings), generator=generator)


def insert_units(model: nn.Module, settings: MixtureSettings, *, generator: torch.Generator | None) -> None:
    """Inserts one unit per block, as `attach` does."""
    if any(isinstance(module, Unit) for module in model.modules()):
        raise UserError("this model has MoPPA units already: attach them once, to a fresh model")
    blocks = find_blocks(model)
    min_dim = min(block.dim for block in blocks)
    if settings.rank is not None and settings.rank > min_dim:
        raise SettingError("rank", f"={settings.rank} is above the backbone's width {min_dim}: choose a smaller rank")
    for block in blocks:
        unit = Unit(block, settings, route_weight=settings.route_weight / len(blocks), generator=generator)
        if settings.position == "residual":
            wrap_module(block.owner, block.name, partial(BeforeBlock, unit=unit, layout=block.layout))
        elif hasattr(block.module, "norm1"):
            wrap_module(block.module, "norm1", partial(AfterNorm, unit=unit, layout=block.layout))
        else:
            wrap_module(block.module, "conv_dw", partial(BeforeConvolution, unit=unit, layout=block.layout))


class BeforeBlock(nn.Module):
    """x <- x + delta(norm1(x)), then the original block. If the block has no norm1, a LayerNorm without weights."""

    def __init__(self, block: nn.Module, unit: Unit, layout: Layout) -> None:
        super().__init__()
        self.block, self.unit = block, unit
        self.layout: Layout = layout

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        norm = getattr(self.block, "norm1", None)
        z = layer_norm(x, self.layout) if norm is None else to_tokens(norm(x), self.layout)
        return self.block(x + from_tokens(self.unit(z), self.layout, like=x), **kwargs)


class AfterNorm(nn.Module):
    """Attention gets z + delta(z), z = norm1(x); the rest of the block is unchanged."""

    def __init__(self, norm: nn.Module, unit: Unit, layout: Layout) -> None:
        super().__init__()
        self.norm, self.unit = norm, unit
        self.layout: Layout = layout

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        return z + from_tokens(self.unit(to_tokens(z, self.layout)), self.layout, like=z)


class BeforeConvolution(nn.Module):
    """The depthwise convolution of a ConvNeXt block gets x + delta(norm(x)), with a LayerNorm without weights."""

    def __init__(self, convolution: nn.Module, unit: Unit, layout: Layout) -> None:
        super().__init__()
        self.convolution, self.unit = convolution, unit
        self.layout: Layout = layout

    def forward(self, x: Tensor) -> Tensor:
        delta = self.unit(layer_norm(x, self.layout))
        return self.convolution(x + from_tokens(delta, self.layout, like=x))


def layer_norm(x: Tensor, layout: Layout) -> Tokens:
    """Returns the tokens of `x`, normalized without weights."""
    tokens = to_tokens(x, layout)
    return F.layer_norm(tokens, tokens.shape[-1:])
