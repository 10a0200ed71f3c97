"""A side network that reads what the frozen blocks of a plain vision transformer return: LST.

No gradient passes through the blocks, so that autograd keeps no activation inside of them.
"""

from typing import Any

import torch
from torch import Tensor, nn


class Start(nn.Module):
    """[x, s_0] to the first rung, with s_0 = Down x of the tokens that enter the first block."""

    def __init__(self, inner: nn.Module, *, down: nn.Module) -> None:
        super().__init__()
        self.inner, self.down = inner, down

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.inner(join(x, self.down(x)), **kwargs)


class Rung(nn.Module):
    """[x, s] to [h, s']: h = L(x) of the frozen block L, s' = S(mu s + (1 - mu) Down h), mu = sigmoid(alpha / T).

    One tensor carries both in its channels. x has no gradient, so that autograd keeps nothing of L but h.
    """

    reads_all_tokens = True  # of the last block, too

    def __init__(self, inner: nn.Module, *, down: nn.Linear, side: nn.Module, temperature: float) -> None:
        super().__init__()
        self.inner, self.down, self.side, self.temperature = inner, down, side, temperature
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        x, s = x.tensor_split((self.down.in_features,), dim=-1)
        h, mu = self.inner(x.detach(), **kwargs), torch.sigmoid(self.alpha / self.temperature)
        masks = {name: kwargs[name] for name in ("attn_mask", "is_causal") if name in kwargs}
        s = self.side(mu * s.contiguous() + (1 - mu) * self.down(h), **masks)  # a view of s would keep x, too
        return join(h, s)


class End(nn.Module):
    """norm(h) + Up norm'(s), with Up = 0 at the start."""

    def __init__(self, inner: nn.Module, *, dim: int, norm: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.inner, self.dim, self.norm, self.up = inner, dim, norm, up

    def forward(self, x: Tensor) -> Tensor:
        h, s = x.tensor_split((self.dim,), dim=-1)
        return self.inner(h.detach()) + self.up(self.norm(s.contiguous()))


def join(x: Tensor, s: Tensor) -> Tensor:
    """Returns [x, s] along the channels, in memory as x: an average depends on the order of the tokens there."""
    if x.is_contiguous():
        return torch.cat([x, s.to(x.dtype)], dim=-1)
    return torch.cat([x.mT, s.to(x.dtype).mT], dim=1).mT
