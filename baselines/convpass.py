"""Convpass: Jie and Deng, "Convolutional Bypasses Are Better Vision Transformer Adapters", arXiv 2207.07039."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.blocks import BlockInfo, find_blocks
from moppa.peft.inject import wrap_module
from moppa.utils import validate
from moppa.utils.errors import UserError
from moppa.utils.matmul import linear

CONV_INITS = ("identity", "xavier_uniform")
Tokens = Float[Tensor, "batch tokens dim"]


class Bypass(nn.Module):
    """s Up g(Conv3x3 g(Down z)), each with its bias, on the patch tokens' grid; g is QuickGELU, Up = 0 at the start.

    A class token has no neighbors: the authors convolve it as an image of one pixel, which only the middle of the
    kernel meets. So is every prefix token here.
    """

    def __init__(
        self,
        place: BlockInfo,
        *,
        bottleneck: int,
        scale: float,
        conv_init: str,
        dropout: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.grid, self.num_prefix_tokens = place.grid, place.num_prefix_tokens
        self.scale, self.dropout = scale, dropout
        self.down = nn.Parameter(torch.empty(bottleneck, place.dim))
        self.down_bias = nn.Parameter(torch.zeros(bottleneck))
        self.conv = nn.Parameter(torch.empty(bottleneck, bottleneck, 3, 3))
        self.conv_bias = nn.Parameter(torch.zeros(bottleneck))
        # zero, so that the first step starts from the frozen model
        self.up = nn.Parameter(torch.zeros(place.dim, bottleneck))
        self.up_bias = nn.Parameter(torch.zeros(place.dim))
        nn.init.xavier_uniform_(self.down, generator=generator)  # this and the kernel as in the authors' code
        if conv_init == "identity":
            nn.init.dirac_(self.conv)
        else:
            nn.init.xavier_uniform_(self.conv, generator=generator)

    def forward(self, z: Tokens) -> Tokens:
        hidden = quick_gelu(linear(z, self.down, self.down_bias))
        prefix, patches = hidden.tensor_split([self.num_prefix_tokens], dim=1)
        image = patches.transpose(1, 2).unflatten(2, self.grid)
        patches = F.conv2d(image, self.conv, self.conv_bias, padding=1).flatten(2).transpose(1, 2)
        prefix = F.linear(prefix, self.conv[:, :, 1, 1], self.conv_bias)
        hidden = F.dropout(quick_gelu(torch.cat([prefix, patches], dim=1)), self.dropout, self.training)
        return self.scale * linear(hidden, self.up, self.up_bias)


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), CLIP's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


class Bypassed(nn.Module):
    """f(z) + Bypass(z), where f is attention or the MLP and z its input, the tokens after the norm."""

    def __init__(self, held: nn.Module, bypass: Bypass) -> None:
        super().__init__()
        self.held, self.bypass = held, bypass

    def forward(self, z: Tensor, **kwargs: Any) -> Tensor:
        return self.held(z, **kwargs) + self.bypass(z)


def attach(
    model: nn.Module,
    *,
    bottleneck: int,
    scale: float,
    conv_init: str,
    dropout: float,
    generator: torch.Generator | None,
) -> None:
    """Gives attention and the MLP of every block a bypass each.

    The authors draw one drop path for a bypass and one for what it bypasses; here the two share one. Their code has a
    form for Swin too, on the whole grid beside the windows of attention: a Swin of timm gives attention only windows.
    """
    validate.integer("method.attach.bottleneck", bottleneck, minimum=1)
    validate.number("method.attach.scale", scale, minimum=0, exclusive_minimum=True)
    validate.one_of("method.attach.conv_init", conv_init, CONV_INITS)
    validate.number("method.attach.dropout", dropout, minimum=0, maximum=0.9)
    for place in find_blocks(model):
        if place.layout != "tokens":
            raise UserError(
                f"Convpass is here for plain vision transformers: the attention of {type(model).__name__} never sees "
                f"the whole grid; choose a ViT as the backbone"
            )
        for name in ("attn", "mlp"):
            bypass = Bypass(
                place, bottleneck=bottleneck, scale=scale, conv_init=conv_init, dropout=dropout, generator=generator
            )
            wrap_module(place.module, name, partial(Bypassed, bypass=bypass))
