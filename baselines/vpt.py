"""VPT: Jia et al., "Visual Prompt Tuning", ECCV 2022, arXiv 2203.12119."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.blocks import find_blocks
from moppa.peft.inject import wrap_module
from moppa.utils import validate
from moppa.utils.errors import UserError

Tokens = Float[Tensor, "batch _ dim"]  # prompts come and go


class PromptsEnter(nn.Module):
    """L([x, P, E]), section 3.2: learned tokens P between the prefix x and the patches E, without a position."""

    def __init__(self, block: nn.Module, prompts: Tensor, *, num_prefix_tokens: int, dropout: float) -> None:
        super().__init__()
        self.block, self.num_prefix_tokens = block, num_prefix_tokens
        self.prompts = nn.Parameter(prompts)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tokens, **kwargs: Any) -> Tokens:
        prefix, patches = x.tensor_split((self.num_prefix_tokens,), dim=1)
        prompts = self.dropout(self.prompts.expand(len(x), -1, -1))  # expanded first: every image has its own mask
        return self.block(torch.cat([prefix, prompts, patches], dim=1), **kwargs)


class PromptsLeave(nn.Module):
    """[x, _, E] = L(...): what became of the prompts is dropped, so that what follows sees the stock tokens."""

    def __init__(self, block: nn.Module, *, num_prompts: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.block, self.cuts = block, (num_prefix_tokens, num_prefix_tokens + num_prompts)

    def forward(self, x: Tokens, **kwargs: Any) -> Tokens:
        prefix, _, patches = self.block(x, **kwargs).tensor_split(self.cuts, dim=1)
        return torch.cat([prefix, patches], dim=1)


def attach(
    model: nn.Module, *, num_prompts: int, deep: bool, dropout: float, generator: torch.Generator | None
) -> None:
    """Gives `num_prompts` prompts to the first block (shallow, eqs. 4 and 5), or new ones to every block (deep, eq. 7).

    Shallow prompts leave after the last block, deep ones after their own: the final norm works token by token, so that
    the head sees what it sees in the paper. All start within +-sqrt(6 / (3 patch^2 + dim)), as in the authors' code.
    """
    validate.integer("method.attach.num_prompts", num_prompts, minimum=1)
    validate.boolean("method.attach.deep", deep)
    validate.number("method.attach.dropout", dropout, minimum=0, maximum=0.99)
    places = find_blocks(model)
    # a Swin's prompts join its windows, inside its blocks; rotary positions fit the stock number of tokens alone
    if places[0].layout != "tokens" or getattr(model, "rope", None) is not None:
        raise UserError(
            f"VPT prompts the blocks of a plain vision transformer, and {type(model).__name__} is none; choose another "
            f"backbone or another method"
        )
    dim, num_prefix_tokens = places[0].dim, places[0].num_prefix_tokens
    bound = math.sqrt(6 / (3 * math.prod(model.patch_embed.patch_size) + dim))

    def enter(block: nn.Module) -> nn.Module:
        prompts = torch.empty(num_prompts, dim).uniform_(-bound, bound, generator=generator)
        return PromptsEnter(block, prompts, num_prefix_tokens=num_prefix_tokens, dropout=dropout)

    def leave(block: nn.Module) -> nn.Module:
        return PromptsLeave(block, num_prompts=num_prompts, num_prefix_tokens=num_prefix_tokens)

    for place in places if deep else places[-1:]:
        wrap_module(place.owner, place.name, leave)  # before the others, so that a block with both is left inside
    for place in places if deep else places[:1]:
        wrap_module(place.owner, place.name, enter)
