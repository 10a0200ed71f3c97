"""From a composed config to its cell, with the settings that `hparams=best` selects."""

from omegaconf import DictConfig

from moppa.backbone.model import compute_weights_sha256
from moppa.record.cell import Cell, cell_from_config
from moppa.sweep.select_hparams import select_hparams
from moppa.utils.config import instantiate


def resolve_cell(config: DictConfig) -> Cell:
    """Returns the cell that a composed config describes. The backbone's weights are fetched and hashed.

    Raises:
        UserError: if a value is missing or wrong, the weights cannot be read, or nothing was tuned for `hparams=best`.
    """
    weights_sha256 = compute_weights_sha256(instantiate(config, "backbone"))
    selected, tuned = select_hparams(config, weights_sha256=weights_sha256)
    return cell_from_config(selected, weights_sha256=weights_sha256, tuned=tuned)
