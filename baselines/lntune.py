"""LN-Tune: Basu et al., "Strong Baselines for Parameter-Efficient Few-Shot Fine-Tuning", AAAI 2024, arXiv 2304.01917.

Found for CLIP by Kim et al., "How to Adapt Your Large-Scale Vision-and-Language Model", OpenReview EhwEUb2ynIa, 2021.
"""

import torch
from torch import nn

from moppa.utils.errors import UserError


def attach(model: nn.Module, *, generator: torch.Generator | None) -> None:  # noqa: ARG001
    """Unfreezes weight and bias of every LayerNorm: those of the blocks, the final one, and what a stage adds."""
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    if not norms:
        raise UserError(
            f"LN-Tune trains the LayerNorms of a model, and {type(model).__name__} has none; "
            f"choose a vision transformer, a Swin or a ConvNeXt of timm as the backbone"
        )
    for norm in norms:
        norm.requires_grad_(True)
