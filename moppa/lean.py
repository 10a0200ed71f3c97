"""What a step computes for nothing, left out of a plain vision transformer: `run.lean` names it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers.drop import DropPath
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from moppa import check
from moppa.touch import Penalised

# unread: of the last block's tokens all but the class token, which the head reads
# dropped: the images whose branch drop path drops
WAYS = ("unread", "dropped")


class LeanBlock(Block):
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


def leave_out(model: nn.Module, ways: Sequence[str]) -> nn.Module:
    """Lets the blocks of a plain vision transformer compute less, in place; logits and gradients stay what they were.

    `unread` leaves a last block whose MLP was given a reader of neighbours (a module with a `grid`) as it is, and all
    of a model that does not read the class token alone. `dropped` leaves blocks with an auxiliary loss, which is a mean
    over all images, and waits for a CPU without torch.compile: elsewhere the host would have to ask how many images are
    kept. Dropout in a block then draws fewer numbers.

    Raises:
        UserError: for a way that is none.
    """
    for way in ways:
        check.one_of("run.lean", way, WAYS)
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential):
        return model
    if "dropped" in ways:
        for block in stock_blocks(blocks):
            if not any(isinstance(module, Penalised) for module in block.modules()):
                lean(block).is_sparing = True
    if "unread" in ways and reads_one_token(model):
        for block in stock_blocks(blocks[-1]):
            if not any(hasattr(module, "grid") for module in block.mlp.modules()):
                lean(block).given = slice(1)
    return model


def stock_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of timm's in it, as they are or lean, in whatever holds them."""
    return [found for found in module.modules() if type(found) in (Block, LeanBlock)]


def lean(block: nn.Module) -> LeanBlock:
    """The block itself, which leaves nothing out yet."""
    block.__class__ = LeanBlock
    return block  # type: ignore[return-value]


def reads_one_token(model: nn.Module) -> bool:
    """Whether the head reads the class token alone."""
    return getattr(model, "global_pool", None) == "token" and getattr(model, "attn_pool", None) is None
