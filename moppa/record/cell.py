"""A cell's record: what was run, on what, and how many answers were right. A cell is done when its record exists."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from moppa.backbone.model import Preprocess
from moppa.peft.collect import trainable_parameters
from moppa.record.schema import key_of, read_record, with_relative_paths
from moppa.train.loop import TrainingResult
from moppa.utils import validate
from moppa.utils.atomic import atomic_write, sha256_file
from moppa.utils.device import device_info, peak_memory_bytes
from moppa.utils.errors import UserError
from moppa.utils.provenance import code_state

# What differs between two runs of one cell, and nothing else does.
MEASURED = ("seconds", "peak_memory_bytes")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One resolved config and one seed: its key, and where its record, predictions and checkpoint lie."""

    config: dict[str, Any]
    weights_sha256: str
    key: str
    record: Path
    checkpoint: Path

    @property
    def predictions(self) -> Path:
        """The per-example predictions, and what the method told of itself by epoch, beside the record."""
        return self.record.with_suffix(".npz")

    @property
    def claim(self) -> Path:
        """Names the worker that is at the cell, while there is one."""
        return self.record.with_suffix(".claim")

    @property
    def failure(self) -> Path:
        """What the last attempt ended with, where it failed: JSON, but no record."""
        return self.record.with_suffix(".failed")

    @property
    def trained(self) -> Path:
        """The tensors that were trained, method and head, as safetensors: what `scripts/export.py` starts from."""
        return self.checkpoint.with_name(self.checkpoint.stem + ".safetensors")

    @property
    def name(self) -> str:
        """The cell in words."""
        config = self.config
        return f"{config['backbone']['name']} {config['method']['name']} {config['task']['name']} seed {config['seed']}"

    @property
    def is_done(self) -> bool:
        """Whether the record stands, whole."""
        return self.record.exists() and bool(read_record(self.record))

    @property
    def weights_name(self) -> str:
        """The weights as a reader would name them: the file, `random`, or the model on the hub."""
        weights = self.config["backbone"]["weights"]
        return self.config["backbone"]["timm"] if weights is None else Path(weights).name

    def check_writable(self) -> None:
        """Fails before the training, not after it, where the results folder cannot be written."""
        probe = self.record.with_name(f".{self.record.name}.probe")
        with atomic_write(probe) as temporary:
            temporary.write_bytes(bytes(1 << 16))
        probe.unlink()


def cell_from_config(config: DictConfig, *, weights_sha256: str) -> Cell:
    """The cell that a composed config means. Fails where a value is missing (???) or cannot be resolved."""
    try:
        resolved: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    return cell_from_resolved(resolved, weights_sha256=weights_sha256)


def cell_from_resolved(resolved: dict[str, Any], *, weights_sha256: str) -> Cell:
    """The cell that a resolved config means."""
    seed = validate.integer("seed", resolved["seed"], minimum=0)
    key = key_of(resolved, weights_sha256)
    place = Path(
        resolved["task"]["suite"],
        resolved["backbone"]["name"],
        resolved["task"]["name"],
        resolved["method"]["name"],
        key,
    )
    results = Path(resolved["run"]["results"]).expanduser()
    return Cell(
        config=resolved,
        weights_sha256=weights_sha256,
        key=key,
        record=results / "records" / place / f"seed{seed}.json",
        checkpoint=results / "checkpoints" / place / f"seed{seed}.pt",
    )


def save_trained(cell: Cell, model: nn.Module) -> str | None:
    """Writes the trained tensors beside where the checkpoint stood, unless `run.keep_trained` is off; their sha256."""
    if not validate.boolean("run.keep_trained", cell.config["run"]["keep_trained"]):
        return None
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trainable_parameters(model).items()}
    with atomic_write(cell.trained) as temporary:
        # one entry only: safetensors writes several in an order that changes, and the same cell gives the same bytes
        safetensors.torch.save_file(tensors, temporary, metadata={"cell": f"{cell.name} {cell.key}"})
    return sha256_file(cell.trained)


def write_record(
    cell: Cell,
    *,
    trained: str | None,
    tuned: Mapping[str, Any] | None,
    predicted: np.ndarray,
    labels: np.ndarray,
    split: Mapping[str, Any],
    preprocess: Preprocess,
    model: nn.Module,
    training: TrainingResult,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Writes predictions, then the record: once the record stands, the cell is done."""
    config = cell.config
    device = model.get_classifier().weight.device
    record = {
        "suite": config["task"]["suite"],
        "backbone": config["backbone"]["name"],
        "method": config["method"]["name"],
        "task": config["task"]["name"],
        "task_version": config["task"]["version"],
        "key": cell.key,
        "seed": config["seed"],
        "protocol": config["protocol"]["name"],
        "correct": int((predicted == labels).sum()),
        "total": len(labels),
        "config": with_relative_paths(config),
        "split": dict(split),
        "weights": {"name": cell.weights_name, "sha256": cell.weights_sha256},
        "trained": {"sha256": trained},
        "tuned": tuned,
        "preprocess": asdict(preprocess),
        "dtype": "bfloat16" if device.type == "cuda" else "float32",
        "device": device_info(device),
        **code_state(),
        **training.counts,
        "seconds": {**seconds, "train": training.seconds},
        "peak_memory_bytes": peak_memory_bytes(device),
        "curve": training.curve,
        **best_on_test(training.observed),
    }
    with atomic_write(cell.predictions) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, predicted=predicted, label=labels.astype(np.int16), **training.observed)
    with atomic_write(cell.record) as temporary:
        temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    return record


def record_summary(written: Mapping[str, Any]) -> dict[str, float]:
    """A record's final figures, for a logger."""
    counts = {name: written[name] for name in ("correct", "total", "trainable_params", "head_params")}
    seconds = {f"seconds_{phase}": value for phase, value in written["seconds"].items()}
    return {"accuracy": written["correct"] / written["total"], **counts, **seconds}


def best_on_test(observed: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """For `protocol=best_on_test` alone: the reading that its papers would have reported, beside all of them by epoch."""
    if "read/correct" not in observed:
        return {}
    readings = [
        {"epoch": int(epoch), "correct": int(correct)}
        for epoch, correct in zip(observed["read/epoch"].flat, observed["read/correct"].flat, strict=True)
    ]
    return {"best_on_test": {**max(readings, key=lambda one: one["correct"]), "readings": readings}}
