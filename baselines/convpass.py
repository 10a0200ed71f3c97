"""Convpass: Jie and Deng, "Convolutional Bypasses Are Better Vision Transformer Adapters", arXiv 2207.07039."""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from moppa.peft.blocks import BlockInfo, find_plain_blocks
from moppa.peft.bottleneck import ParallelAdapter, quick_gelu
from moppa.peft.inject import wrap_module
from moppa.utils import validate

CONV_INITS = ("identity", "xavier_uniform")
Tokens = Float[Tensor, "batch tokens dim"]


class Bypass(nn.Module):
    """s Up g(Conv3x3 g(Down z)), each with a bias, on the grid of patch tokens; g is QuickGELU, Up = 0 at the start.

    A class token has no neighbors. The authors convolve it as an image of one pixel, which meets only the center of the
    kernel. The same is done here with every prefix token.
    """

    def __init__(
        self,
        block: BlockInfo,
        *,
        bottleneck: int,
        scale: float,
        conv_init: str,
        dropout: float,
        generator: Generator | None,
    ) -> None:
        super().__init__()
        self.grid, self.num_prefix_tokens = block.grid, block.num_prefix_tokens
        self.scale, self.dropout = scale, dropout
        self.down = nn.Parameter(torch.empty(bottleneck, block.dim))
        self.down_bias = nn.Parameter(torch.zeros(bottleneck))
        self.conv = nn.Parameter(torch.empty(bottleneck, bottleneck, 3, 3))
        self.conv_bias = nn.Parameter(torch.zeros(bottleneck))
        self.up = nn.Parameter(torch.zeros(block.dim, bottleneck))
        self.up_bias = nn.Parameter(torch.zeros(block.dim))
        nn.init.xavier_uniform_(self.down, generator=generator)  # this and the kernel as in the authors' code
        if conv_init == "identity":
            nn.init.dirac_(self.conv)
        else:
            nn.init.xavier_uniform_(self.conv, generator=generator)

    def forward(self, z: Tokens) -> Tokens:
        hidden = quick_gelu(F.linear(z, self.down, self.down_bias))
        prefix, patches = hidden.tensor_split([self.num_prefix_tokens], dim=1)
        image = patches.transpose(1, 2).unflatten(2, self.grid)
        patches = F.conv2d(image, self.conv, self.conv_bias, padding=1).flatten(2).transpose(1, 2)
        prefix = F.linear(prefix, self.conv[:, :, 1, 1], self.conv_bias)
        hidden = F.dropout(quick_gelu(torch.cat([prefix, patches], dim=1)), self.dropout, self.training)
        return self.scale * F.linear(hidden, self.up, self.up_bias)


def attach(
    model: nn.Module, *, bottleneck: int, scale: float, conv_init: str, dropout: float, generator: Generator | None
) -> None:
    """Adds a bypass to attention and one to the MLP of every block, which reads their input: the tokens after the norm.

    The authors draw one drop path for a bypass and one for the module that it bypasses; here both share one. Their form
    for Swin convolves the whole grid beside attention, which in timm's Swin sees only windows.
    """
    validate.integer("bottleneck", bottleneck, minimum=1)
    validate.number("scale", scale, minimum=0, exclusive_minimum=True)
    validate.one_of("conv_init", conv_init, CONV_INITS)
    validate.number("dropout", dropout, minimum=0, maximum=0.9)
    for block in find_plain_blocks(model, purpose="Convpass adds convolutions over the whole grid to"):
        for name in ("attn", "mlp"):
            bypass = Bypass(
                block, bottleneck=bottleneck, scale=scale, conv_init=conv_init, dropout=dropout, generator=generator
            )
            wrap_module(block.unwrapped, name, partial(ParallelAdapter, adapter=bypass))
