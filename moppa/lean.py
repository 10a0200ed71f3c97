"""What a step computes for nothing, left out: of the last block's tokens the head reads the class token alone."""

from typing import Any

from timm.models.vision_transformer import Block
from torch import Tensor, nn


class ClassTokenBlock(Block):
    """A block that gives out the class token alone: no other token passes its MLP, and none gets a gradient there."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        attended = self.attn(self.norm1(x), *args, **kwargs)[:, :1]  # in it every token still counts
        x = x[:, :1] + self.drop_path1(self.ls1(attended))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


def leave_out_the_unread(model: nn.Module) -> nn.Module:
    """Lets the last block of a plain vision transformer with a class token give out that token alone, in place.

    Logits and gradients stay what they were; dropout in that block draws fewer numbers. A model that pools over its
    tokens, is no plain ViT, or was given an MLP that reads neighbours (a module with a `grid`) stays as it is.
    """
    blocks = getattr(model, "blocks", None)
    pools_one = getattr(model, "global_pool", None) == "token" and getattr(model, "attn_pool", None) is None
    if not isinstance(blocks, nn.Sequential) or not pools_one:
        return model
    for block in [module for module in blocks[-1].modules() if type(module) is Block]:
        if not any(hasattr(module, "grid") for module in block.mlp.modules()):
            block.__class__ = ClassTokenBlock
    return model
