"""From a composed config to its cell, with the settings that `hparams=best` selects."""

from omegaconf import DictConfig

from moppa.backbone.weights_file import local_weights_sha256
from moppa.record.cell import Cell, cell_from_config
from moppa.record.same_images import check_same_images
from moppa.sweep.done import report_done
from moppa.sweep.select_hparams import select_hparams
from moppa.utils.config import instantiate, to_plain
from moppa.utils.known_settings import check_known


def resolve_cell(config: DictConfig, weights_sha256: str | None = None) -> Cell:
    """Returns the cell that a composed config describes. Without their sha256 the weights are fetched and hashed.

    Raises:
        UserError: if a value is missing or wrong, the weights cannot be read, or nothing was tuned for `hparams=best`.
    """
    if weights_sha256 is None:
        from moppa.backbone.model import compute_weights_sha256  # torch, which a finished cell does not need

        weights_sha256 = compute_weights_sha256(instantiate(config, "backbone"))
    selected, tuned = select_hparams(config, weights_sha256=weights_sha256)
    return cell_from_config(selected, weights_sha256=weights_sha256, tuned=tuned)


def finished_cell(config: DictConfig) -> Cell | None:
    """Returns the cell of a composed config if it has a record, and says so; None if it does not or may not have one.

    This takes no torch. It is unknown for weights that are random or come from the Hugging Face hub.
    """
    plain = to_plain(config)
    check_known(plain)
    weights_sha256 = local_weights_sha256(plain["backbone"])
    if weights_sha256 is None:
        return None
    cell = resolve_cell(config, weights_sha256)
    if not cell.is_done or cell.lease.exists():
        return None
    check_same_images(cell, instantiate(config, "task"), instantiate(config, "data"))
    report_done(cell)
    return cell
