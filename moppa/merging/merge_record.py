"""The record of a merge: what was merged, how the scale was chosen, and the outcome. Two runs write the same bytes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moppa.merging.protocol import Outcome
from moppa.merging.stage import Stage
from moppa.record.cell import Cell
from moppa.record.schema import identity_of, short_digest
from moppa.utils.atomic import write_json
from moppa.utils.device import device_info, get_device
from moppa.utils.provenance import code_state

FOLDER = "merge"  # below results/records
NEUTRAL = ("num_tasks", "experts", "export")  # the experts themselves count


def merge_key(config: Mapping[str, Any], tune: list[Cell], final: list[Cell]) -> str:
    """Returns the key of a merge: 12 hex digits over the algorithm, its settings, and the experts."""
    counted = {name: value for name, value in config.items() if name not in NEUTRAL}
    counted["merge"] = {name: value for name, value in config["merge"].items() if name != "draws"}
    identity = {
        "config": identity_of(counted),
        "experts": [[tuned.key, cell.key] for tuned, cell in zip(tune, final, strict=True)],
        "weights": final[0].weights_sha256,
        "dtype": final[0].dtype,
    }
    return short_digest(identity)


def record_path(results: Path, config: Mapping[str, Any], cell: Cell, key: str, draw: int) -> Path:
    """Returns the path of a record: merge/SUITE/BACKBONE/METHOD/ALGORITHM/KEY/merge-seedK-drawJ.json."""
    parts = cell.config
    names = (parts["task"]["suite"], parts["backbone"]["name"], parts["method"]["name"], config["merge"]["name"], key)
    file = f"merge-seed{parts['seed']}-draw{draw}.json"
    return results.joinpath("records", FOLDER, *names, file)


def write_merge_record(
    path: Path, config: Mapping[str, Any], draw: int, tune: Stage, final: Stage, outcome: Outcome
) -> None:
    """Writes a record as a whole."""
    cell, search = final.tasks[0].cell, outcome.search
    tasks = {
        task.name: {
            "group": task.cell.config["task"]["group"],
            "column": task.cell.config["task"]["column"],
            "title": task.cell.config["task"]["title"],
            "num_classes": task.cell.config["task"]["num_classes"],
            "expert": {"tune": tuned.describe(), "final": task.describe()},
            "total": outcome.totals[task.name],
            "trained_head": outcome.trained_heads[task.name],
            "fitted_head": outcome.fitted_heads[task.name],
        }
        for tuned, task in zip(tune.tasks, final.tasks, strict=True)
    }
    record = {
        "kind": "merge",
        "suite": cell.config["task"]["suite"],
        "backbone": cell.config["backbone"]["name"],
        "method": cell.config["method"]["name"],
        "algorithm": config["merge"]["name"],
        "key": path.parent.name,
        "seed": cell.config["seed"],
        "draw": draw,
        "config": {name: value for name, value in config.items() if name not in NEUTRAL},
        "weights": {"name": cell.weights_name, "sha256": cell.weights_sha256},
        "dtype": cell.dtype,
        "search": {"scales": search.scales, "normalized": search.normalized, "correct": search.correct},
        "scale": search.best,
        "tasks": tasks,
        "device": device_info(get_device(cell.config["run"]["device"])),
        **code_state(),
    }
    write_json(path, record)
