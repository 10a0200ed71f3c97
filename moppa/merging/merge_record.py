"""The record of a merge: what was merged, how the scale was chosen, and the outcome. Two runs write the same bytes."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moppa.merging.protocol import Outcome
from moppa.merging.stage import Stage
from moppa.record.cell import Cell
from moppa.record.merge_schema import HEADS, NEUTRAL, merge_place
from moppa.utils.atomic import atomic_write, sha256_file, write_json
from moppa.utils.config import importable
from moppa.utils.device import device_info, get_device
from moppa.utils.paths import user_path
from moppa.utils.provenance import code_state, sources_sha256


def identity_fields(config: Mapping[str, Any], cell: Cell, key: str, draw: int) -> dict[str, Any]:
    """Returns the fields of a record that decide its place. `cell` is one of the experts."""
    return {
        "suite": cell.config["task"]["suite"],
        "backbone": cell.config["backbone"]["name"],
        "method": cell.config["method"]["name"],
        "algorithm": config["merge"]["name"],
        "key": key,
        "seed": cell.config["seed"],
        "draw": draw,
    }


def record_path(results: Path, config: Mapping[str, Any], cell: Cell, key: str, draw: int) -> Path:
    """Returns the path of a record."""
    return results / "records" / merge_place(**identity_fields(config, cell, key, draw))


def write_merge_record(
    path: Path, results: Path, config: Mapping[str, Any], draw: int, tune: Stage, final: Stage, outcome: Outcome
) -> None:
    """Writes the predictions and then the record, each as a whole."""
    cell, search = final.tasks[0].cell, outcome.search
    arrays: dict[str, Any] = {
        f"{task}/{name}": array for task, own in outcome.predictions.items() for name, array in own.items()
    }
    file = path.with_suffix(".npz")
    with atomic_write(file) as temporary, temporary.open("wb") as opened:
        np.savez_compressed(opened, **arrays)
    tasks = {
        task.name: {
            "group": task.cell.config["task"]["group"],
            "column": task.cell.config["task"]["column"],
            "title": task.cell.config["task"]["title"],
            "num_classes": task.cell.config["task"]["num_classes"],
            "expert": {"tune": tuned.describe(), "final": task.describe()},
            "total": len(outcome.predictions[task.name]["label"]),
            **{head: outcome.num_correct(task.name, head) for head in HEADS},
        }
        for tuned, task in zip(tune.tasks, final.tasks, strict=True)
    }
    module = importable(config["merge"]["algorithm"]["_target_"]).rpartition(".")[0]
    record = {
        "kind": "merge",
        **identity_fields(config, cell, path.parent.name, draw),
        "config": {name: value for name, value in config.items() if name not in NEUTRAL},
        "experts": Path(os.path.relpath(user_path(cell.config["run"]["results"]), results)).as_posix(),
        "weights": {"name": cell.weights_name, "sha256": cell.weights_sha256},
        "dtype": cell.dtype,
        "search": {"scales": search.scales, "normalized": search.normalized, "correct": search.correct},
        "scale": search.best,
        "tasks": tasks,
        "predictions": {"sha256": sha256_file(file)},
        "sources": {"sha256": sources_sha256(module)},
        "device": device_info(get_device(cell.config["run"]["device"])),
        **code_state(),
    }
    write_json(path, record)
