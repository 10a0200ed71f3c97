"""Inserts MoPPA units into the blocks of a timm model."""

from functools import partial
from typing import Any

import torch
from torch import nn

from moppa.mixture.constants import FrequencyEmbedding
from moppa.mixture.places import insert_unit
from moppa.mixture.settings import MixtureSettings, accepts_settings, parse_settings
from moppa.mixture.unit import Unit
from moppa.peft.blocks import find_blocks
from moppa.utils.errors import SettingError, UserError


@accepts_settings
def attach(model: nn.Module, *, generator: torch.Generator | None, **settings: Any) -> None:
    """Inserts MoPPA units into every block of a vision transformer, Swin or ConvNeXt.

    The keyword arguments are the fields of `MixtureSettings`. `generator` draws the initial weights.

    Raises:
        UserError: If a setting is wrong, the model has no blocks or no grid, or it has units already.
    """
    insert_units(model, parse_settings(settings), generator=generator)


def insert_units(model: nn.Module, settings: MixtureSettings, *, generator: torch.Generator | None) -> None:
    """Inserts units into every block, as `attach` does."""
    if any(isinstance(module, Unit) for module in model.modules()):
        raise UserError("this model has MoPPA units already: attach them once, to a fresh model")
    blocks = find_blocks(model)
    min_dim = min(block.dim for block in blocks)
    if settings.rank is not None and settings.rank > min_dim:
        raise SettingError("rank", f"={settings.rank} is above the backbone's width {min_dim}: choose a smaller rank")
    embedding = None
    if settings.constants_per == "frequency" and settings.rank is not None:
        embedding = FrequencyEmbedding(blocks[0].grid, settings.rank, generator=generator)  # the largest grid
    num_units = len(blocks) * (2 if settings.position == "qv" else 1)
    make = partial(
        Unit,
        settings=settings,
        route_weight=settings.route_weight / num_units,
        embedding=embedding,
        generator=generator,
    )
    for block in blocks:
        insert_unit(block, settings.position, make)
