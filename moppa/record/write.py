"""Writes the files of a finished cell: the trained tensors, the predictions and the record."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import safetensors.torch
from torch import nn

from moppa.backbone.preprocess import Preprocess
from moppa.data.split import Split
from moppa.peft.collect import trained_tensors
from moppa.record.cell import Cell
from moppa.record.schema import draw_of, targets_of, with_relative_paths
from moppa.record.task_changes import changed_task_settings
from moppa.train.loop import TrainingResult
from moppa.utils import validate
from moppa.utils.atomic import atomic_write, sha256_file, write_json
from moppa.utils.config import importable, loaded_configs
from moppa.utils.device import device_info
from moppa.utils.paths import CONFIGS
from moppa.utils.provenance import code_state, sources_sha256
from moppa.utils.usage import Usage

# the only fields in which two runs of one cell differ
MEASURED = ("seconds", "peak_memory_bytes", "peak_memory_scope", "alone")


def save_trained(cell: Cell, model: nn.Module) -> str | None:
    """Writes the trained tensors of method and head and returns their sha256; None if `run.keep_trained` is false."""
    if not validate.boolean("run.keep_trained", cell.config["run"]["keep_trained"]):
        return None
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained_tensors(model).items()}
    with atomic_write(cell.trained) as temporary:
        # a single metadata entry: safetensors writes several in an order that varies, and the bytes must not
        safetensors.torch.save_file(tensors, temporary, metadata={"cell": f"{cell.name} {cell.key}"})
    return sha256_file(cell.trained)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the run of a cell gives: predictions for the evaluated split, and facts about images, training and machine.

    `logits` and `names` of the evaluated images are written if `run.keep_logits`, with the names of classes that
    `split_check` may hold. `train` and `evaluated` are the splits (of images or of features).
    """

    predicted: np.ndarray
    logits: np.ndarray | None
    names: Sequence[str] | None
    train: Split
    evaluated: Split
    split_check: Mapping[str, Any]
    lineage: str
    preprocess: Preprocess
    training: TrainingResult
    trained_sha256: str | None
    usage: Usage


def write_record(cell: Cell, model: Any, outcome: Outcome) -> dict[str, Any]:
    """Writes the predictions and then the record, and returns the record. Once it exists, the cell is done."""
    config, training = cell.config, outcome.training
    labels = outcome.evaluated.labels
    arrays: dict[str, Any] = {"predicted": outcome.predicted, "label": labels.astype(np.int16), **training.diagnostics}
    arrays |= {} if outcome.logits is None else {"logits": outcome.logits}
    arrays |= {} if outcome.names is None else {"name": np.array(outcome.names)}
    if outcome.logits is not None and "classes" in outcome.split_check:
        arrays["class_name"] = np.array(outcome.split_check["classes"])
    with atomic_write(cell.predictions) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    record = {
        "suite": config["task"]["suite"],
        "backbone": config["backbone"]["name"],
        "method": config["method"]["name"],
        "task": config["task"]["name"],
        "task_version": config["task"]["version"],
        "key": cell.key,
        "seed": config["seed"],
        "protocol": config["protocol"]["name"],
        "correct": int((outcome.predicted == labels).sum()),
        "total": len(labels),
        "config": with_relative_paths(config),
        "split": describe_splits(cell, outcome),
        "weights": {"name": cell.weights_name, "sha256": cell.weights_sha256},
        "trained": {"sha256": outcome.trained_sha256},
        "predictions": {"sha256": sha256_file(cell.predictions)},
        "sources": describe_sources(targets_of(config)),
        "tuned": cell.tuned,
        "preprocess": asdict(outcome.preprocess),
        "dtype": cell.dtype,
        "device": device_info(model.get_classifier().weight.device),
        **code_state(),
        **training.counts,
        "backbone_params": model.backbone_params,
        **outcome.usage.for_record(),
        "seconds": {**outcome.usage.seconds, "train": training.seconds},
        "curve": training.curve,
        **best_on_test(training.diagnostics),
    }
    write_json(cell.record, record)
    return record


def describe_splits(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    """Returns what a record says about its images: the split check, lineage, number, and digests of the pixels.

    If the task differs from its YAML, the split check says so, whatever the names of the images are. A few-shot record
    also says how many images of each class were drawn, and from which seed.
    """
    protocol = cell.config["protocol"]
    description = {
        **outcome.split_check,
        **draw_of(cell.config),
        "lineage": outcome.lineage,
        "num_train": len(outcome.train.labels),
        "pixels_sha256": {protocol["train"]: outcome.train.digest, protocol["evaluate"]: outcome.evaluated.digest},
    }
    changes = changed_task_settings(cell.config["task"], CONFIGS)
    return description | ({"verdict": "changed", "changes": changes} if changes else {})


def describe_sources(attach: Sequence[str]) -> dict[str, Any]:
    """Returns the sha256 over the code and the YAMLs that this cell loaded, and the names of those YAMLs.

    `attach` are the Python paths of the method and of those that it composes. Without Hydra's command line no YAML is
    named.
    """
    configs = loaded_configs()
    modules = tuple(importable(path).rpartition(".")[0] for path in attach)
    sha256 = sources_sha256(modules[0], tuple(configs.items()), modules[1:])
    return {"sha256": sha256, "configs": list(configs)}


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
