"""What a step computes for nothing, left out of a plain vision transformer: `run.skip_unused` names it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.drop import DropPath
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from moppa.peft.collect import HasPenalty
from moppa.utils import validate

# last_block_tokens: the last block's queries and MLP for all tokens but the class token, which the head reads
# dropped_samples: the images whose branch drop path drops
SKIPPABLE = ("last_block_tokens", "dropped_samples")


class ClassTokenAttention(Attention):
    """Attention in which the first token alone asks, of all."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if attn_mask is not None or is_causal:
            return super().forward(x, attn_mask, is_causal)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        share = self.attn_drop.p if self.training else 0.0
        y = F.scaled_dot_product_attention(self.q_norm(q[:, :, :1]), self.k_norm(k), v, dropout_p=share)
        return self.proj_drop(self.proj(self.norm(y.transpose(1, 2).flatten(2))))


class EfficientBlock(Block):
    """A block that gives out the tokens `given`, and whose branches see only the images that drop path keeps."""

    given = slice(None)
    is_sparing = False

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        def attended(kept: Tensor) -> Tensor:  # in it every token still counts
            return self.ls1(self.attn(self.norm1(kept), *args, **kwargs)[:, self.given])

        x = self.joined(x[:, self.given], x, self.drop_path1, attended)
        return self.joined(x, x, self.drop_path2, lambda kept: self.ls2(self.mlp(self.norm2(kept))))

    def joined(self, onto: Tensor, x: Tensor, drop_path: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """onto + drop_path(branch(x)), (B, N, C)."""
        is_spared = self.is_sparing and drop_path.training and not (x.is_cuda or torch.compiler.is_compiling())
        if not is_spared or not isinstance(drop_path, DropPath):
            return onto + drop_path(branch(x))
        share = 1 - drop_path.drop_prob
        kept = x.new_empty(len(x)).bernoulli_(share).nonzero().flatten()
        if len(kept) in (0, len(x)):  # where none is kept the branch's gradients are zero, and not absent
            return onto.add(branch(x), alpha=1 / share if len(kept) else 0)
        return onto.index_add(0, kept, branch(x.index_select(0, kept)), alpha=1 / share)


def skip_unused(model: nn.Module, ways: Sequence[str]) -> nn.Module:
    """Lets the blocks of a plain vision transformer compute less, in place; logits and gradients stay what they were.

    `last_block_tokens` leaves a last block whose MLP was given a reader of neighbors as it is, its attention where a method holds
    it, and all of a model that does not read the class token alone. `dropped_samples` leaves blocks with an auxiliary loss,
    which is a mean over all images, and waits for a CPU without torch.compile: elsewhere the host would have to ask how
    many images are kept. Dropout in a block then draws fewer numbers.

    Raises:
        UserError: for a way that is none.
    """
    for way in ways:
        validate.one_of("run.skip_unused", way, SKIPPABLE)
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential):
        return model
    if "dropped_samples" in ways:
        for block in stock_blocks(blocks):
            if not any(isinstance(module, HasPenalty) for module in block.modules()):
                lean(block).is_sparing = True
    if "last_block_tokens" in ways and reads_one_token(model):
        for block in stock_blocks(blocks[-1]):
            if not reads_neighbors(block.mlp):
                lean(block).given = slice(1)
                if (
                    type(block.attn) is Attention
                    and getattr(block.attn, "gate", None) is None
                    and not reads_neighbors(block.attn.proj)
                ):
                    block.attn.__class__ = ClassTokenAttention
    return model


def stock_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of timm's in it, as they are or lean, in whatever holds them."""
    return [found for found in module.modules() if type(found) in (Block, EfficientBlock)]


def reads_neighbors(held: nn.Module) -> bool:
    """Whether something in it needs all tokens of an image: a module with a `grid`."""
    return any(hasattr(module, "grid") for module in held.modules())


def lean(block: nn.Module) -> EfficientBlock:
    """The block itself, which leaves nothing out yet."""
    block.__class__ = EfficientBlock
    return block  # type: ignore[return-value]


def reads_one_token(model: nn.Module) -> bool:
    """Whether the head reads the class token alone."""
    return getattr(model, "global_pool", None) == "token" and getattr(model, "attn_pool", None) is None
