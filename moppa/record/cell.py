"""A cell: one method on one task with one seed. It is done when its record exists. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from moppa.record.schema import key_of, read_record
from moppa.record.task_changes import changed_task_settings
from moppa.utils import validate
from moppa.utils.atomic import atomic_write
from moppa.utils.config import to_plain
from moppa.utils.gpu import dtype_name
from moppa.utils.known_settings import check_known
from moppa.utils.paths import CONFIGS, user_path


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A resolved config with its key and the paths of its files.

    `tuned` says on which tune records the settings rest; None if they were given.
    """

    config: dict[str, Any]
    weights_sha256: str
    dtype: str
    key: str
    record: Path
    checkpoint: Path
    tuned: Mapping[str, Any] | None

    @property
    def predictions(self) -> Path:
        """The npz file with the predictions, labels and diagnostics."""
        return self.record.with_suffix(".npz")

    @property
    def lease(self) -> Path:
        """The file that names the worker running this cell."""
        return self.record.with_suffix(".lease")

    @property
    def failure(self) -> Path:
        """The JSON file that describes the last failure."""
        return self.record.with_suffix(".failed")

    @property
    def trained(self) -> Path:
        """The safetensors file with the trained tensors, from which `moppa export` starts."""
        return self.checkpoint.with_suffix(".safetensors")

    @property
    def name(self) -> str:
        """The cell in words."""
        config = self.config
        return f"{config['backbone']['name']} {config['method']['name']} {config['task']['name']} seed {config['seed']}"

    @property
    def is_done(self) -> bool:
        """Whether there is a complete record. That of a changed task is not one of the task itself, even of its key."""
        if not self.record.exists():
            return False
        is_changed = read_record(self.record)["split"].get("verdict") == "changed"
        return not is_changed or bool(changed_task_settings(self.config["task"], CONFIGS))

    @property
    def weights_name(self) -> str:
        """The weights' display name: the file, `random`, or timm's name of the model on the hub."""
        weights = self.config["backbone"]["weights"]
        return self.config["backbone"]["timm"] if weights is None else Path(weights).name

    def check_writable(self) -> None:
        """Raises `UserError` before the training if the results folder cannot be written."""
        probe = self.record.with_name(f".{self.record.name}.probe")
        with atomic_write(probe) as temporary:
            temporary.write_bytes(bytes(1 << 16))
        probe.unlink()


def cell_from_config(config: DictConfig, *, weights_sha256: str, tuned: Mapping[str, Any] | None = None) -> Cell:
    """Returns the cell that a composed config describes.

    Raises:
        UserError: if a value is missing (???) or an interpolation cannot be resolved.
    """
    return cell_from_resolved(to_plain(config), weights_sha256=weights_sha256, tuned=tuned)


def cell_from_resolved(config: dict[str, Any], *, weights_sha256: str, tuned: Mapping[str, Any] | None = None) -> Cell:
    """Returns the cell that a resolved config describes.

    Raises:
        UserError: if the config has a setting that does not exist, or the seed is not an integer of at least 0.
    """
    check_known(config)
    seed = validate.integer("seed", config["seed"], minimum=0)
    dtype = dtype_name(config["run"]["device"], config["run"].get("precision", "auto"))
    key = key_of(config, weights_sha256, dtype)
    names = (config["task"]["suite"], *(config[group]["name"] for group in ("backbone", "task", "method")))
    folder = Path(*names, key)
    results = user_path(config["run"]["results"])
    return Cell(
        config=config,
        weights_sha256=weights_sha256,
        dtype=dtype,
        key=key,
        record=results / "records" / folder / f"seed{seed}.json",
        checkpoint=results / "checkpoints" / folder / f"seed{seed}.pt",
        tuned=tuned,
    )
