"""Houlsby adapters: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, arXiv 1902.00751."""

from collections.abc import Sequence

import torch
from torch import nn

from moppa.utils import validate

from . import adapter, lntune


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
    train_norms: bool,
    generator: torch.Generator | None,
) -> None:
    """Adds the adapters of `baselines.adapter`, after attention and after the MLP, and may train every LayerNorm.

    The paper trains the LayerNorms. A table with 313,536 parameters on ViT-B/16 does not.
    """
    validate.boolean("train_norms", train_norms)
    adapter.attach(
        model,
        bottleneck=bottleneck,
        placements=placements,
        activation=activation,
        scale=scale,
        init=init,
        dropout=dropout,
        drop_path=drop_path,
        generator=generator,
    )
    if train_norms:
        lntune.attach(model)
