"""Houlsby adapters: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, arXiv 1902.00751."""

from typing import Any

import torch
from torch import nn

from moppa.utils import validate

from . import adapter, lntune


def attach(model: nn.Module, *, train_norms: bool, generator: torch.Generator | None, **settings: Any) -> None:
    """Adds the adapters of `baselines.adapter.attach`, which takes the other settings, and may train the LayerNorms.

    The paper trains them; most VTAB-1K tables do not, which shows in their numbers of parameters.
    """
    validate.boolean("train_norms", train_norms)
    adapter.attach(model, generator=generator, **settings)
    if train_norms:
        lntune.attach(model)
