"""Bottleneck adapters: one small network, placed in a block as each paper does.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, arXiv 1902.00751.
Pfeiffer et al., "AdapterFusion", EACL 2021, arXiv 2005.00247; in vision as in the code of Jia et al.,
arXiv 2203.12119.
Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS 2022,
arXiv 2205.13535.
Steitz and Roth, "Adapters Strike Back", CVPR 2024, arXiv 2406.06820.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.drop import DropPath
from torch import Tensor, nn

from moppa.peft.blocks import find_transformer_blocks
from moppa.peft.inject import wrap_module
from moppa.utils import validate
from moppa.utils.errors import SettingError

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}
INITS = ("kaiming_uniform", "truncated_normal")
Tokens = Float[Tensor, "*batch dim"]


class Adapter(nn.Module):
    """A(x) = s (Up act(Down x + b) + b'), token by token: Houlsby.

    s is a number or, in Adapters Strike Back, one learned gain per channel. Houlsby and Steitz start Up near zero; here
    it is zero as in AdaptFormer, so that training starts from the frozen model.
    """

    def __init__(
        self,
        dim: int,
        *,
        bottleneck: int,
        activation: str,
        scale: float | str,
        init: str,
        dropout: float,
        drop_path: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.activation, self.dropout, self.drop_path = ACTIVATIONS[activation], dropout, DropPath(drop_path)
        self.scale = nn.Parameter(torch.ones(dim)) if scale == "channel" else scale
        self.down, self.down_bias = nn.Parameter(torch.empty(bottleneck, dim)), nn.Parameter(torch.zeros(bottleneck))
        self.up, self.up_bias = nn.Parameter(torch.zeros(dim, bottleneck)), nn.Parameter(torch.zeros(dim))
        if init == "kaiming_uniform":
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5), generator=generator)  # as in AdaptFormer's code
        else:
            nn.init.trunc_normal_(self.down, std=0.01, a=-0.02, b=0.02, generator=generator)  # as in Houlsby

    def forward(self, x: Tokens) -> Tokens:
        hidden = self.activation(F.linear(x, self.down, self.down_bias))
        hidden = F.dropout(hidden, self.dropout, self.training)
        return self.drop_path(self.scale * F.linear(hidden, self.up, self.up_bias))


class ParallelAdapter(nn.Module):
    """y = f(x) + A(x): AdaptFormer's AdaptMLP, with f the MLP."""

    def __init__(self, inner: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.inner, self.adapter = inner, adapter

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.inner(x, **kwargs) + self.adapter(x)


class SequentialAdapter(nn.Module):
    """y = f(x) + A(f(x)): Houlsby, with f attention or the MLP; Steitz's "post", with f the block."""

    def __init__(self, inner: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.inner, self.adapter = inner, adapter

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        y = self.inner(x, **kwargs)
        return y + self.adapter(y)


# by the module that is wrapped, the block last: it contains the others
PLACEMENTS = {
    "beside_attn": ("attn", ParallelAdapter),
    "beside_mlp": ("mlp", ParallelAdapter),
    "after_attn": ("attn", SequentialAdapter),
    "after_mlp": ("mlp", SequentialAdapter),
    "after_block": ("block", SequentialAdapter),
}


def attach(
    model: nn.Module,
    *,
    bottleneck: int,
    placements: Sequence[str],
    activation: str,
    scale: float | str,
    init: str,
    dropout: float,
    drop_path: float,
    generator: torch.Generator | None,
) -> None:
    """Adds one adapter per placement to every block of a transformer.

    Adapters beside and after attention and the MLP are inside the residual branch: after its norm, before its
    LayerScale and drop path. AdaptFormer's equation has the norm and its code does not: this follows the equation. An
    adapter after the block has a `drop_path` of its own, as in the code of Adapters Strike Back.
    """
    validate.integer("bottleneck", bottleneck, minimum=1)
    validate.one_of("activation", activation, ACTIVATIONS)
    validate.one_of("init", init, INITS)
    validate.number("dropout", dropout, minimum=0, maximum=0.9)
    validate.number("drop_path", drop_path, minimum=0, maximum=0.9)
    validate.subset("placements", placements, PLACEMENTS)
    if not isinstance(scale, str):
        validate.number("scale", scale, minimum=0, exclusive_minimum=True)
    elif scale != "channel":
        raise SettingError("scale", f"={scale!r}: it must be a number above 0, or channel")
    adapter = partial(
        Adapter,
        bottleneck=bottleneck,
        activation=activation,
        scale=scale,
        init=init,
        dropout=dropout,
        drop_path=drop_path,
        generator=generator,
    )
    for block in find_transformer_blocks(model, method="An adapter"):
        for placement, (name, wrapper) in PLACEMENTS.items():
            if placement in placements:
                owner, name = (block.owner, block.name) if name == "block" else (block.module, name)
                wrap_module(owner, name, partial(wrapper, adapter=adapter(block.dim)))
