"""DiffFit: Xie et al., "DiffFit: Unlocking Transferability of Large Diffusion Models via Simple Parameter-Efficient
Fine-Tuning", ICCV 2023, arXiv 2304.06648; on image classification as in the code of Mai et al., arXiv 2409.16434.
"""

from typing import Any

import torch
from torch import nn

from moppa.peft.affine import append_scale
from moppa.peft.blocks import find_blocks
from moppa.peft.bottleneck import POST_NORM_BLOCKS
from moppa.peft.targets import target_linears

from . import bitfit, lntune


def attach(model: nn.Module) -> None:
    """Trains every bias, every LayerNorm, and one gain per channel for each residual branch of every block.

    The gain of attention or the MLP multiplies what is added to the tokens, gamma = 1 at the start, so that it merges
    into the last operation of the branch. A ConvNeXt's block has one branch.

    Raises:
        UserError: if the model has no known blocks, or they have no such operation.
    """
    bitfit.attach(model)  # before the gains, since a bias that has one is computed
    lntune.attach(model)
    blocks: list[Any] = [block.unwrapped for block in find_blocks(model)]
    if isinstance(blocks[0], POST_NORM_BLOCKS):
        branches = [norm for block in blocks for norm in (block.norm1, block.norm2)]
    else:
        targets = ("proj", "fc2") if hasattr(blocks[0], "attn") else ("fc2",)
        branches = [target.layer for target in target_linears(model, targets, method="DiffFit")]
    for last in branches:
        append_scale(last, nn.Parameter(torch.ones(len(last.weight))))
