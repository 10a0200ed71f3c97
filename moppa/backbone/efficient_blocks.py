"""Removes computation that cannot affect the result from a plain vision transformer: `run.skip_unused`.

The classes restate the forward passes of timm's `Block` and `Attention`, whose sources are checked by hash.
"""

import moppa.backbone.lean_timm  # noqa: F401 - before timm

# isort: split

import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.drop import DropPath
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from moppa.peft.collect import HasPenalty
from moppa.utils import validate

# last_block_tokens: in the last block the queries and the MLP of all tokens but the class token, which the head reads
# dropped_samples: images that drop path drops from a residual branch
# gradient_copies: the gradients of q, k and v, copied side by side before they are copied into the layout of the layer
SKIPPABLE = ("last_block_tokens", "dropped_samples", "gradient_copies")

SOURCES: dict[Callable[..., Any], tuple[str, ...]] = {  # sha256 of the sources that were read: timm 1.0.31
    Block.forward: ("2cb6f77c3039d89cb550de426742c13fd3d322b693dea0bdadedc6ad162a04b9",),
    Attention.forward: ("37a80e0fdf45af9ca19ee07f1a176731d56a5f2028f2b19991578f58d0a3698a",),
}


class SplitHeads(torch.autograd.Function):
    """q, k and v (B, H, N, D) as views of what the layer qkv returns (B, N, 3 H D).

    The backward pass writes the three gradients into one tensor, where autograd stacks them and copies the stack.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_heads: int) -> tuple[Tensor, ...]:  # noqa: ARG004
        return split_heads(qkv, num_heads)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]  # noqa: ARG004
        batch, heads, tokens, dim = gradients[0].shape
        whole = gradients[0].new_empty(batch, tokens, 3 * heads * dim)
        for part, gradient in zip(split_heads(whole, heads), gradients, strict=True):
            part.copy_(gradient)
        return whole, None


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    """Returns q, k and v (B, H, N, D) as views of (B, N, 3 H D)."""
    return qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class OneCopyAttention(Attention):
    """Attention with one copy of the gradients of q, k and v. A compiled block has no copies to save."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if not (self.fused_attn and torch.is_grad_enabled()) or torch.compiler.is_compiling():
            return super().forward(x, attn_mask, is_causal)
        q, k, v = SplitHeads.apply(self.qkv(x), self.num_heads)
        dropout = self.attn_drop.p if self.training else 0.0
        y = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask, dropout, is_causal)
        return self.proj_drop(self.proj(self.norm(y.transpose(1, 2).flatten(2))))


class ClassTokenAttention(Attention):
    """Attention with the query of the first token only, (B, N, C) to (B, 1, C)."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if attn_mask is not None or is_causal:
            return super().forward(x, attn_mask, is_causal)
        q, k, v = split_heads(self.qkv(x), self.num_heads)
        dropout = self.attn_drop.p if self.training else 0.0
        y = F.scaled_dot_product_attention(self.q_norm(q[:, :, :1]), self.k_norm(k), v, dropout_p=dropout)
        return self.proj_drop(self.proj(self.norm(y.transpose(1, 2).flatten(2))))


class EfficientBlock(Block):
    """A block that returns the tokens `output_tokens`, and may skip the images that drop path drops from a branch."""

    output_tokens = slice(None)
    skips_dropped = False

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        x = self.add_branch(
            x[:, self.output_tokens],
            x,  # of which attention reads every token
            self.drop_path1,
            lambda kept: self.ls1(self.attn(self.norm1(kept), *args, **kwargs)[:, self.output_tokens]),
        )
        return self.add_branch(x, x, self.drop_path2, lambda kept: self.ls2(self.mlp(self.norm2(kept))))

    def add_branch(
        self, residual: Tensor, x: Tensor, drop_path: nn.Module, branch: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Returns residual + drop_path(branch(x)), (B, N, C)."""
        can_skip = self.skips_dropped and drop_path.training and not (x.is_cuda or torch.compiler.is_compiling())
        if not can_skip or not isinstance(drop_path, DropPath):
            return residual + drop_path(branch(x))
        keep_prob = 1 - drop_path.drop_prob
        kept = x.new_empty(len(x)).bernoulli_(keep_prob).nonzero().flatten()
        if len(kept) in (0, len(x)):  # if no image is kept, the branch's gradients must be zero and not absent
            return residual.add(branch(x), alpha=1 / keep_prob if len(kept) else 0)
        added = branch(x.index_select(0, kept))
        dtype = torch.promote_types(residual.dtype, added.dtype)  # of residual + added: autocast gives other branches
        return residual.to(dtype).index_add(0, kept, added.to(dtype), alpha=1 / keep_prob)


def skip_unused(model: nn.Module, optimizations: Sequence[str]) -> nn.Module:
    """Makes the blocks of a plain vision transformer compute less, in place, with the same logits and gradients.

    `last_block_tokens` applies if the head reads only the class token. It excludes an MLP in which a method mixes
    tokens, an attention that a method wraps, and a block whose output a method reads. `dropped_samples` applies on a
    CPU without torch.compile, since elsewhere the host would wait for the number of kept images. It excludes blocks
    with an auxiliary loss, which is a mean over all images. Dropout in a block then draws fewer numbers.
    `gradient_copies` applies to timm's own attention without a gate. If the installed timm computes its blocks in an
    unknown way, one line says so and nothing is changed.

    Raises:
        SettingError: if an optimization is unknown.
    """
    for name in optimizations:
        validate.one_of("run.skip_unused", name, SKIPPABLE)
    blocks = getattr(model, "blocks", None)
    if not optimizations or not isinstance(blocks, nn.Sequential) or not is_timm_known():
        return model
    if "dropped_samples" in optimizations:
        for block in timm_blocks(blocks):
            if not any(isinstance(module, HasPenalty) for module in block.modules()):
                as_efficient(block).skips_dropped = True
    if "last_block_tokens" in optimizations and reads_class_token_only(model) and not is_read(blocks[-1]):
        for block in timm_blocks(blocks[-1]):
            if not needs_all_tokens(block.get_submodule("mlp")):
                return_class_token(as_efficient(block))
    if "gradient_copies" in optimizations:
        for module in blocks.modules():
            if type(module) is Attention and module.gate is None:
                module.__class__ = OneCopyAttention
    return model


@lru_cache(maxsize=1)
def is_timm_known() -> bool:
    """Returns whether the installed timm has the forward passes that this module restates; warns once if not."""
    is_known = all(source_sha256(function) in hashes for function, hashes in SOURCES.items())
    if not is_known:
        print(
            f"run.skip_unused has no effect: timm {timm.__version__} computes its blocks differently from timm 1.0.31",
            file=sys.stderr,
        )
    return is_known


def source_sha256(function: Callable[..., Any]) -> str:
    """Returns the sha256 of a function's source, or nothing if the source is not installed."""
    try:
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
    except OSError:
        return ""


def timm_blocks(module: nn.Module) -> list[nn.Module]:
    """Returns timm's blocks in a module, which may be wrapped."""
    return [block for block in module.modules() if type(block) in (Block, EfficientBlock)]


def as_efficient(block: nn.Module) -> EfficientBlock:
    """Turns a block of timm into an `EfficientBlock`, in place, which does not skip anything yet."""
    block.__class__ = EfficientBlock
    return block  # type: ignore[return-value]


def return_class_token(block: EfficientBlock) -> None:
    """Makes a block return the class token only, and its attention too if that is timm's."""
    block.output_tokens = slice(1)
    attention = block.attn
    if type(attention) is Attention and attention.gate is None and not needs_all_tokens(attention.proj):
        attention.__class__ = ClassTokenAttention


def is_read(block: nn.Module) -> bool:
    """Returns whether a method reads all tokens that a block returns, as it states by `reads_all_tokens`."""
    return any(getattr(part, "reads_all_tokens", False) for part in block.modules())


def needs_all_tokens(module: nn.Module) -> bool:
    """Returns whether a module in it reads the tokens of an image as a grid, which it states as `grid`."""
    return any(hasattr(part, "grid") for part in module.modules())


def reads_class_token_only(model: nn.Module) -> bool:
    """Returns whether the head reads the class token and no other."""
    return getattr(model, "global_pool", None) == "token" and getattr(model, "attn_pool", None) is None
