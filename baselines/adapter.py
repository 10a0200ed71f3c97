"""Bottleneck adapters: one small network, and the places in a block where the papers put it.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, arXiv 1902.00751.
Pfeiffer et al., "AdapterFusion", EACL 2021, arXiv 2005.00247; in vision as the code of Jia et al., arXiv 2203.12119.
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
from moppa.utils.errors import UserError
from moppa.utils.matmul import linear

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}
INITS = ("kaiming_uniform", "truncated_normal")
Tokens = Float[Tensor, "*batch dim"]


class Adapter(nn.Module):
    """A(x) = s (Up act(Down x + b) + b'), for each token alone: Houlsby, section 2.1.

    s is a number or, in Adapters Strike Back, one learned gain a channel. Houlsby and Steitz start Up near zero; here
    it is zero as in AdaptFormer, so that the first step starts from the frozen model.
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
            nn.init.trunc_normal_(self.down, std=0.01, a=-0.02, b=0.02, generator=generator)  # Houlsby, section 3.6

    def forward(self, x: Tokens) -> Tokens:
        hidden = self.activation(linear(x, self.down, self.down_bias))
        hidden = F.dropout(hidden, self.dropout, self.training)
        return self.drop_path(self.scale * linear(hidden, self.up, self.up_bias))


class Beside(nn.Module):
    """y = f(x) + A(x): AdaptFormer's AdaptMLP, where f is the MLP."""

    def __init__(self, held: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.held, self.adapter = held, adapter

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.held(x, **kwargs) + self.adapter(x)


class After(nn.Module):
    """y = f(x) + A(f(x)): Houlsby, section 2.1, where f is attention or the MLP; "post" where f is the block."""

    def __init__(self, held: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.held, self.adapter = held, adapter

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        y = self.held(x, **kwargs)
        return y + self.adapter(y)


# the block last: its adapter stands behind those within it
PLACEMENTS = {
    "beside_attn": ("attn", Beside),
    "beside_mlp": ("mlp", Beside),
    "after_attn": ("attn", After),
    "after_mlp": ("mlp", After),
    "after_block": ("block", After),
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
    """Gives every block of a transformer one adapter at each of the placements.

    Those beside and after attention and the MLP read and write inside the residual branch (after its norm, before its
    LayerScale and drop path). AdaptFormer's equation has the norm, its code has not: ours follows the equation. An
    adapter after the block has a `drop_path` of its own, as in the code of Adapters Strike Back.
    """
    validate.integer("method.attach.bottleneck", bottleneck, minimum=1)
    validate.one_of("method.attach.activation", activation, ACTIVATIONS)
    validate.one_of("method.attach.init", init, INITS)
    validate.number("method.attach.dropout", dropout, minimum=0, maximum=0.9)
    validate.number("method.attach.drop_path", drop_path, minimum=0, maximum=0.9)
    for placement in placements:
        validate.one_of("method.attach.placements", placement, PLACEMENTS)
    if not placements or len(set(placements)) < len(placements):
        raise UserError(
            f"method.attach.placements={list(placements)}: name at least one of {', '.join(PLACEMENTS)}, each once"
        )
    if not isinstance(scale, str):
        validate.number("method.attach.scale", scale, minimum=0, exclusive_minimum=True)
    elif scale != "channel":
        raise UserError(f"method.attach.scale={scale!r}: it must be a number above 0, or channel")
    for place in find_transformer_blocks(model, method="An adapter"):
        for name, wrapper in (PLACEMENTS[placement] for placement in PLACEMENTS if placement in placements):
            adapter = Adapter(
                place.dim,
                bottleneck=bottleneck,
                activation=activation,
                scale=scale,
                init=init,
                dropout=dropout,
                drop_path=drop_path,
                generator=generator,
            )
            owner, name = (place.owner, place.name) if name == "block" else (place.module, name)
            wrap_module(owner, name, partial(wrapper, adapter=adapter))
