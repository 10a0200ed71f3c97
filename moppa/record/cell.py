"""A cell: one method on one task with one seed. It is done when its record exists."""

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

from moppa.backbone.preprocess import Preprocess
from moppa.data.source import Source
from moppa.data.split import Split
from moppa.peft.collect import trainable_parameters
from moppa.record.schema import key_of, read_record, with_relative_paths
from moppa.record.task_changes import changed_task_settings
from moppa.train.loop import TrainingResult
from moppa.utils import validate
from moppa.utils.atomic import atomic_write, sha256_file
from moppa.utils.config import config_error, importable
from moppa.utils.device import device_info, dtype_name, peak_memory_bytes
from moppa.utils.known_settings import check_known
from moppa.utils.paths import CONFIGS
from moppa.utils.provenance import code_state, sources_sha256

MEASURED = ("seconds", "peak_memory_bytes")  # the only fields in which two runs of one cell differ


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
        """Whether there is a complete record."""
        return self.record.exists() and bool(read_record(self.record))

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
    try:
        resolved: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise config_error(error) from error
    return cell_from_resolved(resolved, weights_sha256=weights_sha256, tuned=tuned)


def cell_from_resolved(config: dict[str, Any], *, weights_sha256: str, tuned: Mapping[str, Any] | None = None) -> Cell:
    """Returns the cell that a resolved config describes.

    Raises:
        UserError: if the config has a setting that does not exist, or the seed is not an integer of at least 0.
    """
    check_known(config)
    seed = validate.integer("seed", config["seed"], minimum=0)
    dtype = dtype_name(config["run"]["device"])
    key = key_of(config, weights_sha256, dtype)
    names = (config["task"]["suite"], *(config[group]["name"] for group in ("backbone", "task", "method")))
    folder = Path(*names, key)
    results = Path(config["run"]["results"]).expanduser()
    return Cell(
        config=config,
        weights_sha256=weights_sha256,
        dtype=dtype,
        key=key,
        record=results / "records" / folder / f"seed{seed}.json",
        checkpoint=results / "checkpoints" / folder / f"seed{seed}.pt",
        tuned=tuned,
    )


def save_trained(cell: Cell, model: nn.Module) -> str | None:
    """Writes the trained tensors of method and head and returns their sha256; None if `run.keep_trained` is false."""
    if not validate.boolean("run.keep_trained", cell.config["run"]["keep_trained"]):
        return None
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trainable_parameters(model).items()}
    with atomic_write(cell.trained) as temporary:
        # a single metadata entry: safetensors writes several in an order that varies, and the bytes must not
        safetensors.torch.save_file(tensors, temporary, metadata={"cell": f"{cell.name} {cell.key}"})
    return sha256_file(cell.trained)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a cell's run gives: the predictions for the evaluated split, its labels, and facts about the run."""

    predicted: np.ndarray
    labels: np.ndarray
    split: Mapping[str, Any]
    preprocess: Preprocess
    training: TrainingResult
    trained_sha256: str | None
    seconds: Mapping[str, float]


def describe_splits(cell: Cell, source: Source, train: Split, evaluated: Split) -> dict[str, Any]:
    """Returns what a record says about its images besides the split check: lineage, number, and digests of the pixels.

    If the task differs from its YAML, the split check says so, whatever the names of the images are.
    """
    protocol = cell.config["protocol"]
    description = {
        "lineage": source.lineage,
        "num_train": len(train.labels),
        "pixels_sha256": {protocol["train"]: train.digest, protocol["evaluate"]: evaluated.digest},
    }
    changes = changed_task_settings(cell.config["task"], CONFIGS)
    return description | ({"verdict": "changed", "changes": changes} if changes else {})


def write_record(cell: Cell, model: Any, outcome: Outcome) -> dict[str, Any]:
    """Writes the predictions and then the record, and returns the record. Once it exists, the cell is done."""
    config, training = cell.config, outcome.training
    labels = outcome.labels.astype(np.int16)
    arrays: dict[str, Any] = {"predicted": outcome.predicted, "label": labels, **training.diagnostics}
    with atomic_write(cell.predictions) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
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
        "correct": int((outcome.predicted == outcome.labels).sum()),
        "total": len(outcome.labels),
        "config": with_relative_paths(config),
        "split": dict(outcome.split),
        "weights": {"name": cell.weights_name, "sha256": cell.weights_sha256},
        "trained": {"sha256": outcome.trained_sha256},
        "predictions": {"sha256": sha256_file(cell.predictions)},
        "sources": {"sha256": sources_sha256(importable(config["method"]["attach"]["_target_"]).rpartition(".")[0])},
        "tuned": cell.tuned,
        "preprocess": asdict(outcome.preprocess),
        "dtype": cell.dtype,
        "device": device_info(device),
        **code_state(),
        **training.counts,
        "seconds": {**outcome.seconds, "train": training.seconds},
        "peak_memory_bytes": peak_memory_bytes(device),
        "curve": training.curve,
        **best_on_test(training.diagnostics),
    }
    with atomic_write(cell.record) as temporary:
        temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return record


def record_summary(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns a record's final numbers, for a logger."""
    counts = {name: record[name] for name in ("correct", "total", "trainable_params", "head_params")}
    seconds = {f"seconds_{phase}": value for phase, value in record["seconds"].items()}
    return {"accuracy": record["correct"] / record["total"], **counts, **seconds}


def best_on_test(diagnostics: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the record's entry of `protocol=best_on_test`: the best evaluation and all of them, by epoch."""
    if "evaluation/correct" not in diagnostics:
        return {}
    evaluations = [
        {"epoch": int(epoch), "correct": int(correct)}
        for epoch, correct in zip(
            diagnostics["evaluation/epoch"].flat, diagnostics["evaluation/correct"].flat, strict=True
        )
    ]
    best = max(evaluations, key=lambda evaluation: evaluation["correct"])
    return {"best_on_test": {**best, "evaluations": evaluations}}
