"""LN-Tune: Basu et al., "Strong Baselines for Parameter-Efficient Few-Shot Fine-Tuning", AAAI 2024, arXiv 2304.01917.

Proposed for CLIP by Kim et al., "How to Adapt Your Large-Scale Vision-and-Language Model", 2021,
OpenReview EhwEUb2ynIa.
"""

from torch import nn

from moppa.utils.errors import UserError


def attach(model: nn.Module) -> None:
    """Unfreezes weight and bias of every LayerNorm: in the blocks, between stages, and the final one.

    Raises:
        UserError: if the model has no LayerNorm.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    if not norms:
        raise UserError(
            f"LN-Tune trains LayerNorms, and {type(model).__name__} has none; "
            f"choose a vision transformer, a Swin or a ConvNeXt of timm as the backbone"
        )
    for norm in norms:
        norm.requires_grad_(True)
