"""Bottleneck adapters: one small network, placed in a block as each paper does.

Pfeiffer et al., "AdapterFusion", EACL 2021, arXiv 2005.00247; in vision as in the code of Jia et al.,
arXiv 2203.12119.
Steitz and Roth, "Adapters Strike Back", CVPR 2024, arXiv 2406.06820.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from moppa.peft.blocks import find_transformer_blocks
from moppa.peft.bottleneck import Adapter, ParallelAdapter, SequentialAdapter
from moppa.peft.inject import wrap_module
from moppa.utils import validate

# by the module that is wrapped, the block last: it contains the others
PLACEMENTS = {
    "beside_attn": ("attn", ParallelAdapter),
    "beside_mlp": ("mlp", ParallelAdapter),
    "after_attn": ("attn", SequentialAdapter),
    "after_mlp": ("mlp", SequentialAdapter),
    "after_block": ("block", SequentialAdapter),
}


def attach(
    model: nn.Module,
    *,
    bottleneck: int,
    placements: Sequence[str],
    activation: str,
    scale: float | str,
    init: str,
    dropout: float,
    drop_path: float,
    generator: torch.Generator | None,
) -> None:
    """Adds one adapter per placement to every block of a transformer.

    Adapters beside and after attention and the MLP are inside the residual branch: after its norm, before its
    LayerScale and drop path. An adapter after the block has a `drop_path` of its own, as in the code of Adapters Strike
    Back.
    """
    validate.subset("placements", placements, PLACEMENTS)
    adapter = partial(
        Adapter,
        bottleneck=bottleneck,
        activation=activation,
        scale=scale,
        init=init,
        dropout=dropout,
        drop_path=drop_path,
        generator=generator,
    )
    for block in find_transformer_blocks(model, method="An adapter"):
        for placement, (name, wrapper) in PLACEMENTS.items():
            if placement in placements:
                owner, name = (block.owner, block.name) if name == "block" else (block.unwrapped, name)
                wrap_module(owner, name, partial(wrapper, adapter=adapter(block.dim)))
