"""Learned tokens among those of a plain vision transformer: where they are inserted, and where they are removed."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from moppa.peft.blocks import find_plain_blocks
from moppa.peft.inject import wrap_module
from moppa.utils import validate

Tokens = Float[Tensor, "batch _ dim"]  # the number of tokens changes


class InsertPrompts(nn.Module):
    """L([x, f(P), E]): learned tokens P between the prefix x and the patches E, without a position.

    f is `transform`, after the dropout.
    """

    adds_tokens = True

    def __init__(
        self, inner: nn.Module, prompts: Tensor, *, num_prefix_tokens: int, dropout: float, transform: nn.Module
    ) -> None:
        super().__init__()
        self.inner, self.num_prefix_tokens = inner, num_prefix_tokens
        self.prompts = nn.Parameter(prompts)
        self.dropout, self.transform = nn.Dropout(dropout), transform

    def forward(self, x: Tokens, **kwargs: Any) -> Tokens:
        prefix, patches = x.tensor_split((self.num_prefix_tokens,), dim=1)
        prompts = self.prompts.to(x.dtype).expand(x.shape[0], -1, -1)
        prompts = self.transform(self.dropout(prompts))  # expanded, so that every image has its own mask
        return self.inner(torch.cat([prefix, prompts, patches], dim=1), **kwargs)


class RemovePrompts(nn.Module):
    """[x, _, E] = L(...): removes the outputs of the prompts, so that later modules see the original tokens."""

    def __init__(self, inner: nn.Module, *, num_prompts: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.inner, self.bounds = inner, (num_prefix_tokens, num_prefix_tokens + num_prompts)

    def forward(self, x: Tokens, **kwargs: Any) -> Tokens:
        prefix, _, patches = self.inner(x, **kwargs).tensor_split(self.bounds, dim=1)
        return torch.cat([prefix, patches], dim=1)


def attach_prompts(
    model: nn.Module,
    *,
    num_prompts: int,
    deep: bool,
    dropout: float,
    pool_prompts: bool,
    transform: nn.Module,
    generator: Generator | None,
    method: str,
) -> None:
    """Adds `num_prompts` prompts to the first block (shallow), or new ones to every block (deep).

    Shallow prompts are removed after the last block, deep ones after their own, before the final norm. If the head
    reads an average, `pool_prompts` keeps those of the last block, so that it averages their outputs too. The initial
    values are uniform within +-sqrt(6 / (3 patch^2 + dim)), as in the code of VPT's authors.
    """
    validate.integer("num_prompts", num_prompts, minimum=1)
    validate.boolean("deep", deep)
    validate.boolean("pool_prompts", pool_prompts)
    validate.number("dropout", dropout, minimum=0, maximum=0.99)
    # in a Swin prompts would join the windows, inside the blocks
    blocks = find_plain_blocks(model, purpose=f"{method} adds prompts to", takes_more_tokens=True)
    dim, num_prefix_tokens = blocks[0].dim, blocks[0].num_prefix_tokens
    patch_embed: Any = model.patch_embed
    bound = math.sqrt(6 / (3 * math.prod(patch_embed.patch_size) + dim))

    def insert(block: nn.Module) -> nn.Module:
        prompts = torch.empty(num_prompts, dim).uniform_(-bound, bound, generator=generator)
        return InsertPrompts(block, prompts, num_prefix_tokens=num_prefix_tokens, dropout=dropout, transform=transform)

    def remove(block: nn.Module) -> nn.Module:
        return RemovePrompts(block, num_prompts=num_prompts, num_prefix_tokens=num_prefix_tokens)

    removed = blocks if deep else blocks[-1:]
    if pool_prompts and getattr(model, "global_pool", None) != "token":
        removed = removed[:-1]
    for block in removed:
        wrap_module(block.owner, block.name, remove)  # before the others, so that `remove` is inside of `insert`
    for block in blocks if deep else blocks[:1]:
        wrap_module(block.owner, block.name, insert)
