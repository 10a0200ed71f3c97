"""Writes the files of a finished cell: the trained tensors, the predictions and the record."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import safetensors.torch
from torch import nn

from moppa.backbone.preprocess import Preprocess
from moppa.data.source import Source
from moppa.data.split import Split
from moppa.peft.collect import trainable_parameters
from moppa.record.cell import Cell
from moppa.record.schema import with_relative_paths
from moppa.record.task_changes import changed_task_settings
from moppa.train.loop import TrainingResult
from moppa.utils import validate
from moppa.utils.atomic import atomic_write, sha256_file
from moppa.utils.config import importable
from moppa.utils.device import device_info, peak_memory_bytes
from moppa.utils.paths import CONFIGS
from moppa.utils.provenance import code_state, sources_sha256

MEASURED = ("seconds", "peak_memory_bytes")  # the only fields in which two runs of one cell differ


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
