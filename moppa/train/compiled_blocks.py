"""Compiles the blocks of a model instead of the whole: blocks that are built alike share one compilation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from moppa.peft.blocks import find_blocks
from moppa.peft.collect import trains_only_head

RECOMPILE_LIMIT = 4096  # beyond its own small limit torch silently stops compiling


class DrawnDropPath(nn.Module):
    """Drop path whose factors are drawn before the forward pass, by `draw`, as timm's draws them.

    Compiled code then contains neither the generator nor the rate, in which blocks differ.
    """

    factors: Tensor

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def draw(self, images: Tensor) -> None:
        """Draws one factor for each image: 0, or 1 / (1 - drop_prob)."""
        keep_prob = 1 - self.drop_prob
        factors = torch.empty(len(images), device=images.device)
        self.factors = factors.fill_(1) if keep_prob == 1 else factors.bernoulli_(keep_prob).div_(keep_prob)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors.to(x.dtype).view(-1, *[1] * (x.ndim - 1)) if self.training else x


@contextmanager
def compiled_blocks(model: nn.Module, *, batch_size: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """Compiles every block inside the context and yields the model's forward pass.

    Blocks with the same modules and shapes share one compilation, also those of later models of this process; other
    processes find its kernels in torch's cache on disk. The first and the last block may differ from the others: the
    input of the first needs no gradient, and the last may compute the class token alone. Batches of another size than
    `batch_size` are computed eagerly. Random numbers are those of the eager model. A deep copy of the model is not
    compiled. If only the head is trained, nothing is compiled.
    """
    blocks: list[Any] = [] if trains_only_head(model) else [block.module for block in find_blocks(model)]
    with drawn_drop_paths(blocks) as drop_paths:
        if blocks:
            configure_compiler()
        for block in blocks:
            block.compile(dynamic=False)

        def forward(images: Tensor) -> Tensor:
            for drop_path in drop_paths:
                drop_path.draw(images)
            with torch.compiler.set_stance("default" if len(images) == batch_size else "force_eager"):
                return model(images)

        try:
            yield forward
        finally:
            for block in blocks:
                block._compiled_call_impl = None


def configure_compiler() -> None:
    """Makes torch.compile compile each kind of block, and draw random numbers as eager code does."""
    import torch._dynamo  # takes seconds, so only if something is compiled
    import torch._inductor.config

    for limit in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(torch._dynamo.config, limit, RECOMPILE_LIMIT)
    torch._inductor.config.fallback_random = True


@contextmanager
def drawn_drop_paths(blocks: list[Any]) -> Iterator[list[DrawnDropPath]]:
    """Replaces every drop path of the blocks by a `DrawnDropPath` inside the context, and yields these in order.

    timm gives a block without drop path an identity, which is replaced too, so that all blocks are alike.
    """
    owners = [
        (owner, name, child)
        for block in blocks
        for owner in block.modules()
        for name, child in owner.named_children()
        if isinstance(child, DropPath) or (name.startswith("drop_path") and isinstance(child, nn.Identity))
    ]
    if not any(isinstance(child, DropPath) for *_, child in owners):
        owners = []
    drawn = []
    for owner, name, child in owners:
        drawn.append(DrawnDropPath(getattr(child, "drop_prob", 0.0)).train(child.training))
        setattr(owner, name, drawn[-1])
    try:
        yield drawn
    finally:
        for owner, name, child in owners:
            setattr(owner, name, child.train(owner.training))
