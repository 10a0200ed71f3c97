"""AdaptFormer: Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS 2022.

arXiv 2205.13535.
"""

import torch
from torch import nn

from moppa.peft.blocks import find_transformer_blocks
from moppa.peft.bottleneck import Adapter, add_beside_mlp


def attach(
    model: nn.Module,
    *,
    bottleneck: int,
    activation: str,
    scale: float,
    init: str,
    dropout: float,
    reads: str,
    generator: torch.Generator | None,
) -> None:
    """Adds A(x) = s Up act(Down x) to the output of every MLP, with x the tokens before or after its norm (`reads`).

    The paper's equation has the norm; the authors' code has not. In their code drop path leaves the adapter out; here
    it drops both, since the adapter is inside the MLP's residual branch.
    """
    for block in find_transformer_blocks(model, method="AdaptFormer"):
        adapter = Adapter(
            block.dim,
            bottleneck=bottleneck,
            activation=activation,
            scale=scale,
            init=init,
            dropout=dropout,
            drop_path=0.0,
            generator=generator,
        )
        add_beside_mlp(block.unwrapped, adapter, reads=reads)
