"""MAM: He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning", ICLR 2022, arXiv 2110.04366."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from moppa.peft.blocks import find_plain_blocks
from moppa.peft.bottleneck import Adapter, ParallelAdapter
from moppa.peft.inject import wrap_module
from moppa.peft.targets import check_calls_qkv
from moppa.utils import validate


class PrefixQKV(nn.Module):
    """The queries, keys and values of the tokens, and of the last ones, which are empty, the learned P_k and P_v."""

    def __init__(self, inner: Any, num_prefixes: int, generator: Generator | None) -> None:
        super().__init__()
        self.inner = inner
        self.prefix = nn.Parameter(torch.empty(num_prefixes, 2 * (inner.out_features // 3)))
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
        wrap_module(inner, "qkv", partial(PrefixQKV, num_prefixes=num_prefixes, generator=generator))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        if attn_mask is not None:  # every token sees the prefixes
            visible = 1.0 if attn_mask.dtype == torch.bool else 0.0
            attn_mask = F.pad(attn_mask, (0, self.num_prefixes, 0, self.num_prefixes), value=visible)
        x = F.pad(x, (0, 0, 0, self.num_prefixes))
        return self.inner(x, attn_mask=attn_mask, **kwargs)[:, : -self.num_prefixes]


def attach(
    model: nn.Module, *, num_prefixes: int, bottleneck: int, scale: float, dropout: float, generator: Generator | None
) -> None:
    """Adds `num_prefixes` keys and values to the attention of every block, and an adapter s Up relu(Down z) to its MLP.

    The authors compute the prefixes by an MLP in training; here they are trained themselves. Prefixes are further keys,
    so that no initial value gives the logits of the frozen model.
    """
    validate.integer("num_prefixes", num_prefixes, minimum=1)
    for block in find_plain_blocks(model, purpose="MAM adds prefixes to", takes_more_tokens=True):
        adapter = Adapter(
            block.dim,
            bottleneck=bottleneck,
            activation="relu",
            scale=scale,
            init="kaiming_uniform",
            dropout=dropout,
            drop_path=0.0,
            generator=generator,
        )
        module: Any = block.module
        check_calls_qkv(module.attn, method="MAM")
        wrap_module(module, "attn", partial(PrefixAttention, num_prefixes=num_prefixes, generator=generator))
        wrap_module(module, "mlp", partial(ParallelAdapter, adapter=adapter))
