"""The places of a MoPPA unit in a block: each wraps one module of the block."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moppa.mixture.unit import Unit
from moppa.peft.blocks import BlockInfo, Layout, from_tokens, to_tokens
from moppa.peft.inject import unwrapped, wrap_module
from moppa.peft.low_rank import stacked
from moppa.peft.targets import check_calls_qkv
from moppa.utils.errors import SettingError

MakeUnit = Callable[[BlockInfo], Unit]
QKV = ("q", "k", "v")


class Before(nn.Module):
    """f(x + delta(norm1(x))). If f has no norm1, it is a LayerNorm without weights."""

    def __init__(self, inner: nn.Module, *, unit: Unit, layout: Layout) -> None:
        super().__init__()
        self.inner, self.unit = inner, unit
        self.layout: Layout = layout

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        norm = getattr(unwrapped(self.inner), "norm1", None)
        z = layer_norm(x, self.layout) if norm is None else to_tokens(norm(x), self.layout)
        return self.inner(x + from_tokens(self.unit(z), self.layout, like=x), **kwargs)


class After(nn.Module):
    """z + delta(z), z = f(x), with f the norm before attention."""

    def __init__(self, inner: nn.Module, *, unit: Unit, layout: Layout) -> None:
        super().__init__()
        self.inner, self.unit = inner, unit
        self.layout: Layout = layout

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return z + from_tokens(self.unit(to_tokens(z, self.layout)), self.layout, like=z)


class Beside(nn.Module):
    """f(z) + delta(z), with f attention or the MLP. If f gets no normalized input, delta(norm(z)) has a LayerNorm."""

    def __init__(self, inner: nn.Module, *, unit: Unit, layout: Layout, is_normalized: bool) -> None:
        super().__init__()
        self.inner, self.unit, self.is_normalized = inner, unit, is_normalized
        self.layout: Layout = layout

    def forward(self, z: Tensor, **kwargs: Any) -> Tensor:
        y = self.inner(z, **kwargs)
        tokens = to_tokens(z, self.layout) if self.is_normalized else layer_norm(z, self.layout)
        return y + from_tokens(self.unit(tokens), self.layout, like=y)


class BesideMatrices(nn.Module):
    """W z + delta(z) for each of the matrices q, k and v, stacked in one layer, that has a unit."""

    def __init__(self, inner: Any, *, units: Mapping[str, Unit]) -> None:
        super().__init__()
        self.inner, self.units = inner, nn.ModuleDict(units)

    def forward(self, z: Tensor) -> Tensor:
        y = self.inner(z)
        if not self.units:
            return y
        units: list[Any] = [self.units[name] for name in QKV if name in self.units]
        if all(unit.has_products for unit in units):
            return self.add_products(y, z, units)
        chunks = zip(QKV, y.chunk(len(QKV), dim=-1), strict=True)
        return torch.cat([chunk + self.units[name](z) if name in self.units else chunk for name, chunk in chunks], -1)

    def add_products(self, y: Tensor, z: Tensor, units: Sequence[Any]) -> Tensor:
        """Returns the same by one product with all Down and one with all Up.

        The passes over all tokens, forward and backward, are then those of LoRA. Chunks of y would be added to and
        concatenated one by one.
        """
        reduced = F.linear(z, torch.cat([unit.down for unit in units])).chunk(len(units), dim=-1)
        mixed = [unit.mix(x.contiguous()) for unit, x in zip(units, reduced, strict=True)]
        up = stacked([name in self.units for name in QKV], [unit.scale * unit.up for unit in units])
        return torch.addmm(y.flatten(0, -2), torch.cat(mixed, dim=-1).flatten(0, -2), up.T).view_as(y)

    def merge(self) -> None:
        """Adds units that are linear maps of each token to the weight, as LoRA's."""
        units: dict[str, Any] = dict(self.units.items())
        for name, matrix in zip(QKV, unwrapped(self.inner).weight.chunk(len(QKV)), strict=True):
            if name in units and units[name].is_pointwise:
                matrix.add_(units[name].matrix())
                del self.units[name]


def insert_unit(block: BlockInfo, position: str, make: MakeUnit) -> None:
    """Inserts what `make` returns for a block: one unit, or two at "qv".

    In a ConvNeXt the depthwise convolution takes the place of attention. The attention of a Swin sees windows.

    Raises:
        SettingError: If the block has no such position.
    """
    module = block.unwrapped
    is_convnext = hasattr(module, "conv_dw")
    if position == "residual":
        wrap_module(block.owner, block.name, partial(Before, unit=make(block), layout=block.layout))
    elif position == "attn_input":
        wrapper, name = (Before, "conv_dw") if is_convnext else (After, "norm1")
        wrap_module(module, name, partial(wrapper, unit=make(block), layout=block.layout))
    elif position == "mlp_parallel":
        layout = mlp_layout(block)
        wrap_module(module, "mlp", partial(Beside, unit=make(block), layout=layout, is_normalized=True))
    elif position == "attn_parallel":
        name, seen = ("conv_dw", block) if is_convnext else ("attn", seen_by_attention(block))
        wrapper = partial(Beside, unit=make(seen), layout=seen.layout, is_normalized=not is_convnext)
        wrap_module(module, name, wrapper)
    elif is_convnext:
        raise SettingError("position", "=qv: a ConvNeXt has no q and v; choose another position, or a ViT or a Swin")
    else:
        seen = seen_by_attention(block)
        attention = unwrapped(module.attn)
        check_calls_qkv(attention, method="position=qv")
        wrap_module(attention, "qkv", partial(BesideMatrices, units={"q": make(seen), "v": make(seen)}))


def seen_by_attention(block: BlockInfo) -> BlockInfo:
    """Returns the block with the grid that its attention sees: of a Swin, a window."""
    module = block.unwrapped
    return replace(block, grid=tuple(module.window_size), layout="tokens") if hasattr(module, "window_size") else block


def mlp_layout(block: BlockInfo) -> Layout:
    """Returns the layout of what enters the MLP of a block."""
    if block.layout == "channels_first":  # a ConvNeXt, whose MLP is linear layers or 1 x 1 convolutions
        return "channels_first" if getattr(block.unwrapped, "use_conv_mlp", False) else "channels_last"
    return "tokens"


def layer_norm(x: Tensor, layout: Layout) -> Tensor:
    """Returns the tokens (B, N, C) of `x`, normalized without weights."""
    tokens = to_tokens(x, layout)
    return F.layer_norm(tokens, tokens.shape[-1:])
