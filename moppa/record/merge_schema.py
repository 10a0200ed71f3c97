"""The record of a merge as a file: its key, its place and its predictions. Imports no torch, so that tables start fast.

A record lies in records/merge/SUITE/BACKBONE/METHOD/ALGORITHM/KEY/ with its predictions (.npz) beside it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from moppa.record.integrity import load_arrays
from moppa.record.schema import identity_of, short_digest
from moppa.utils.errors import UserError

FOLDER = "merge"  # below results/records
HEADS = ("trained_head", "fitted_head")  # the expert's, and one that is fitted again
ARRAYS = (*HEADS, "label")  # of every task in the prediction file, as TASK/NAME
NEUTRAL = ("num_tasks", "experts", "export")  # settings of configs/merging.yaml; the experts themselves count


def merge_key(
    config: Mapping[str, Any], experts: Iterable[tuple[str, str]], weights_sha256: str | None, dtype: str
) -> str:
    """Returns the key of a merge: 12 hex digits over the algorithm, its settings, and the experts.

    `experts` are the keys of the cells of each task, of protocol=tune and of protocol=final. How many draws of masks or
    orders there are does not count.
    """
    counted = {name: value for name, value in config.items() if name not in NEUTRAL}
    counted["merge"] = {name: value for name, value in config["merge"].items() if name != "draws"}
    keys = sorted(list(pair) for pair in experts)
    return short_digest({"config": identity_of(counted), "experts": keys, "weights": weights_sha256, "dtype": dtype})


def merge_place(
    *, suite: str, backbone: str, method: str, algorithm: str, key: str, seed: int, draw: int, **_: Any
) -> str:
    """Returns the place of a record below the records folder. Other fields of a record are ignored."""
    return "/".join((FOLDER, suite, backbone, method, algorithm, key, f"merge-seed{seed}-draw{draw}.json"))


def merge_paths(results: Path) -> list[Path]:
    """Returns the paths of the records of merges below a results folder, sorted."""
    return sorted((results / "records" / FOLDER).rglob("merge-seed*.json"))


def is_merge(path: Path) -> bool:
    """Returns whether the name of a record is that of a merge."""
    return path.name.startswith("merge-")


def read_merge_record(path: Path) -> tuple[dict[str, Any], str]:
    """Returns the record of a merge and the sha256 of its file.

    Raises:
        UserError: if it cannot be read as JSON.
    """
    data = path.read_bytes()
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"it is not JSON ({error}); delete it and run the merge again") from error
    if not isinstance(content, dict):
        raise UserError("it is not the record of a merge; delete it and run the merge again")
    return content, hashlib.sha256(data).hexdigest()


def read_merge_predictions(path: Path, content: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Returns the predicted classes with both kinds of heads and the labels, (images,) each, by task.

    Raises:
        UserError: if the file is missing, is not the one that the record was written with, or gives other counts.
    """
    file = path.with_suffix(".npz")
    if not file.is_file():
        raise UserError("its predictions (.npz) are missing")
    names = [f"{task}/{name}" for task in content["tasks"] for name in ARRAYS]
    arrays = dict(zip(names, load_arrays(file, names, content["predictions"]["sha256"]), strict=True))
    predictions = {task: {name: arrays[f"{task}/{name}"] for name in ARRAYS} for task in content["tasks"]}
    for task, own in predictions.items():
        counts = content["tasks"][task]
        found = {"total": len(own["label"]), **{head: int((own[head] == own["label"]).sum()) for head in HEADS}}
        for name, count in found.items():
            if count != counts[name]:
                raise UserError(f"{file} gives {count} for {name} of {task}, its record {counts[name]}")
    return predictions


def mean_normalized(correct: Mapping[str, int], experts: Mapping[str, Mapping[str, Any]]) -> float:
    """Returns the accuracy divided by that of the expert, mean over the tasks.

    `experts` has the `correct` and `total` images of every task; an expert counts as having one correct image at least.
    """
    shares = [Fraction(count, max(1, experts[task]["correct"])) for task, count in correct.items()]
    return round(float(sum(shares, Fraction(0)) / len(shares)), 12)


def best_scale(scales: Sequence[float], normalized: Sequence[float]) -> float:
    """Returns the scale with the highest average, the first one of equals."""
    return scales[max(range(len(scales)), key=lambda index: (normalized[index], -index))]
