"""Learned keys and values beside those of the tokens: the prefixes of He et al., arXiv 2110.04366."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from moppa.peft.inject import unwrapped, wrap_module
from moppa.peft.targets import check_calls_qkv


class PrefixQKV(nn.Module):
    """The queries, keys and values of the tokens, and of the last ones, which are empty, the learned P_k and P_v."""

    changes_input = True

    def __init__(self, inner: Any, num_prefixes: int, generator: Generator | None) -> None:
        super().__init__()
        self.inner = inner
        self.prefix = nn.Parameter(torch.empty(num_prefixes, 2 * (unwrapped(inner).out_features // 3)))
        nn.init.normal_(self.prefix, std=0.02, generator=generator)  # as in the authors' code

    def forward(self, x: Tensor) -> Tensor:
        num_prefixes, width = self.prefix.shape
        qkv = self.inner(x[:, :-num_prefixes])
        prefix = F.pad(self.prefix, (width // 2, 0)).to(qkv.dtype)  # their queries are zero: nothing reads the result
        return torch.cat([qkv, prefix.expand(x.shape[0], -1, -1)], dim=1)


class PrefixAttention(nn.Module):
    """softmax(q [k, P_k]^T) [v, P_v]: attention over more keys and values, as the paper's prefix tuning."""

    def __init__(self, inner: Any, num_prefixes: int, generator: Generator | None) -> None:
        super().__init__()
        self.inner, self.num_prefixes = inner, num_prefixes
        wrap_module(unwrapped(inner), "qkv", partial(PrefixQKV, num_prefixes=num_prefixes, generator=generator))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        if attn_mask is not None:  # every token sees the prefixes
            visible = 1.0 if attn_mask.dtype == torch.bool else 0.0
            attn_mask = F.pad(attn_mask, (0, self.num_prefixes, 0, self.num_prefixes), value=visible)
        x = F.pad(x, (0, 0, 0, self.num_prefixes))
        return self.inner(x, attn_mask=attn_mask, **kwargs)[:, : -self.num_prefixes]


def add_prefixes(block: Any, num_prefixes: int, generator: Generator | None, *, method: str) -> None:
    """Adds learned keys and values to the attention of a block.

    Raises:
        UserError: if the attention never calls its layer qkv; the message names the method.
    """
    check_calls_qkv(unwrapped(block.attn), method=method)
    wrap_module(block, "attn", partial(PrefixAttention, num_prefixes=num_prefixes, generator=generator))
