"""Whether a record agrees with itself and with its predictions. Tables and `hparams=best` read records through it."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from moppa.record.schema import draw_of, key_of
from moppa.utils.errors import UserError

NUM_VAL = 200
SPLIT_CHECKS = ("official", "official start", "no digest", "no names", "changed")
TEST_CHECKS = ("official", "no digest", "not read")


def find_inconsistency(content: Mapping[str, Any]) -> str:
    """Returns what in a record contradicts the config that it contains, or an empty string."""
    try:
        config, correct, total = content["config"], content["correct"], content["total"]
        expected = {
            "suite": config["task"]["suite"],
            "task": config["task"]["name"],
            "backbone": config["backbone"]["name"],
            "method": config["method"]["name"],
            "protocol": config["protocol"]["name"],
            "seed": config["seed"],
        }
        for name, value in expected.items():
            if content[name] != value:
                return f"its {name} is {content[name]}, its config says {value}"
        if not isinstance(correct, int) or not isinstance(total, int) or not 0 <= correct <= total or not total:
            return f"it counts {correct} of {total} images as correct"
        split = config["protocol"]["evaluate"]
        num_images = config["task"]["num_test"] if split == "test" else config["task"].get("num_val", NUM_VAL)
        if total != num_images:
            return f"it has predictions of {total} images, but {split} of {content['task']} has {num_images}"
        if problem := find_split_problem(content["split"], config["task"]["fingerprint"]):
            return problem
        if problem := find_test_problem(content["split"], config["task"]):
            return problem
        if problem := find_draw_problem(content["split"], config):
            return problem
        lineage = source_lineage(config["data"]["_target_"])
        if lineage not in (None, content["split"]["lineage"]):
            return f"its lineage is {content['split']['lineage']}, its data source reads {lineage}"
        check_fields(content)
        key = key_of(config, content["weights"]["sha256"], content["dtype"])
        if key != content["key"]:
            return f"its key is {content['key']}, its config, weights and dtype give {key}"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"its fields are not those of a record ({type(error).__name__}: {error})"
    return ""


def find_split_problem(split: Mapping[str, Any], official: Mapping[str, str] | None) -> str:
    """Returns what is wrong with a record's split check, or an empty string.

    `official` is the fingerprint of the task. A split is official only if every digest that both have is the same.
    """
    if missing := [name for name in ("lineage", "verdict") if name not in split]:
        return f"its split has no {missing[0]}"
    verdict, fingerprint = split["verdict"], split.get("fingerprint")
    if verdict not in SPLIT_CHECKS:
        return f"its split check is {verdict!r}, which is none of {', '.join(SPLIT_CHECKS)}"
    if verdict.startswith("official") and fingerprint is not None:
        common = set(fingerprint) & set(official or {})
        different = sorted(name for name in common if fingerprint[name] != (official or {})[name])
        if different or not common:
            return f"its split check is {verdict}, but {different[0] if different else 'its fingerprint'} is not"
    return ""


def find_test_problem(split: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    """Returns what is wrong with the check of a record's test split, or an empty string. Old records have none."""
    check = split.get("test", "no digest")
    if check not in TEST_CHECKS:
        return f"its test split check is {check!r}, which is none of {', '.join(TEST_CHECKS)}"
    official, actual = task.get("test_sha256") or {}, split.get("test_sha256") or {}
    common = [name for name, digest in official.items() if digest and actual.get(name)]
    if different := [name for name in common if official[name] != actual[name]]:
        return f"the {different[0]} of its test split are not those of its task"
    if check == "official" and not common and "test_in_order" not in (task["fingerprint"] or {}):
        return "its test split check is official, but its task has no digest of the test split"
    return ""


def find_draw_problem(split: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Returns what in a few-shot record contradicts its config, or an empty string."""
    draw = draw_of(config)
    if draw and {name: split[name] for name in draw} != draw:
        return f"its training images are of draw {split['draw']} with {split['shots']} images of each class, not {draw}"
    if draw and split["num_train"] != draw["shots"] * config["task"]["num_classes"]:
        return f"it was trained on {split['num_train']} images, not on {draw['shots']} of each class"
    return ""


@lru_cache
def source_lineage(target: str) -> str | None:
    """Returns the lineage of a data source by its Python path, or None if its class cannot be imported here."""
    module, _, name = target.rpartition(".")
    try:
        lineage = getattr(getattr(import_module(module), name), "lineage", None)
    except (ImportError, AttributeError, ValueError):
        return None
    return lineage if isinstance(lineage, str) else None


def check_fields(content: Mapping[str, Any]) -> None:
    """Raises KeyError, TypeError or ValueError if a field that tables and figures read has another form."""
    for name in ("trainable_params", "head_params", "peak_memory_bytes"):
        int(content[name])
    for number in content.get("backbone_params", {}).values():  # old records have none
        int(number)
    float(content["seconds"]["train"])
    for group, names in (("git", ("commit", "dirty")), ("weights", ("name", "sha256")), ("device", ("name",))):
        for name in names:
            content[group][name]
    for name in ("mean", "std"):
        tuple(float(value) for value in content["preprocess"][name])
    for epoch in content["curve"]:
        float(epoch["loss"])


def read_predictions(path: Path, content: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the predicted classes and the labels, (images,) each, of the record at `path`; None without a file.

    Raises:
        UserError: if the file cannot be read, or is not the one that the record was written with.
    """
    file = path.with_suffix(".npz")
    if not file.exists():
        return None
    sha256 = content.get("predictions", {}).get("sha256")  # old records have none
    predicted, label = load_arrays(file, ("predicted", "label"), sha256)
    num_correct = int((predicted == label).sum())
    if len(label) != content["total"] or num_correct != content["correct"]:
        raise UserError(
            f"{file} has {num_correct} of {len(label)} images correct, its record {content['correct']} of "
            f"{content['total']}; delete both and run the cell again"
        )
    return predicted, label


def load_arrays(file: Path, names: Iterable[str], sha256: str | None) -> list[np.ndarray]:
    """Returns some arrays of a prediction file.

    Raises:
        UserError: if the file lacks one or cannot be read, or has another sha256 than the one given.
    """
    data = file.read_bytes()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{file} has changed since its record was written; delete both and run the cell again")
    try:
        with file.open("rb") as opened, np.load(opened) as arrays:
            return [arrays[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{file} has no readable predictions ({error}); delete it and its record, and run the cell again"
        ) from error
