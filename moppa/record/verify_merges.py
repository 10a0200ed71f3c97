"""Checks of the records of merges: each against itself, its predictions, and the records of the experts it names."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moppa.record.integrity import read_predictions
from moppa.record.merge_schema import (
    ARRAYS,
    HEADS,
    best_scale,
    mean_normalized,
    merge_key,
    merge_paths,
    merge_place,
    read_merge_predictions,
    read_merge_record,
)
from moppa.record.schema import read_record
from moppa.record.verify import Finding
from moppa.utils.atomic import sha256_file
from moppa.utils.errors import UserError

PROTOCOLS = ("tune", "final")  # of the experts that choose the scale, and of those that count


@dataclass(frozen=True, kw_only=True)
class CheckedMerge:
    """The record of a merge that agrees with itself, and its predictions by task."""

    path: str  # relative to the records folder
    content: Mapping[str, Any]
    predictions: Mapping[str, Mapping[str, np.ndarray]]


def verify_merges(results: Path) -> list[Finding]:
    """Returns every problem of the records of merges below `results/records/merge`.

    A record must agree with itself and with its predictions and lie at the path that its content gives; the experts
    that it names must have records that say what it states, with the same test labels; and no seed may be another.
    """
    root = results / "records"
    checked, findings = [], []
    for path in merge_paths(results):
        place = path.relative_to(root).as_posix()
        try:
            checked.append(check_merge(path, place))
        except UserError as error:
            findings.append(Finding(path=place, problem=str(error)))
    for merge in checked:
        findings += [Finding(path=merge.path, problem=problem) for problem in find_false_experts(merge, results)]
    findings += find_copied_seeds(checked)
    return sorted(findings, key=lambda finding: (finding.path, finding.problem))


def check_merge(path: Path, place: str) -> CheckedMerge:
    """Returns the record of a merge with its predictions.

    Raises:
        UserError: if it contradicts itself, its path or its predictions, or has no predictions.
    """
    content, _ = read_merge_record(path)
    if problem := find_merge_inconsistency(content):
        raise UserError(problem)
    if place != (expected := merge_place(**content)):
        raise UserError(f"it belongs at {expected}")
    return CheckedMerge(path=place, content=content, predictions=read_merge_predictions(path, content))


def find_merge_inconsistency(content: Mapping[str, Any]) -> str:
    """Returns what in the record of a merge contradicts the rest of it, or an empty string."""
    checks: tuple[Callable[[Mapping[str, Any]], str], ...] = (find_false_count, find_false_search, find_false_key)
    try:
        for name in ("dtype", "device", "versions", "git", "predictions"):
            content[name]
        return next(filter(None, (check(content) for check in checks)), "")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        return f"its fields are not those of the record of a merge ({type(error).__name__}: {error})"


def find_false_count(content: Mapping[str, Any]) -> str:
    """Returns which count is none, or an empty string."""
    for name, task in content["tasks"].items():
        for field in ("group", "column", "title"):
            task[field]
        if task["num_classes"] < 1:
            return f"{name} has {task['num_classes']} classes"
        counts = {head: (task[head], task["total"]) for head in HEADS}
        counts |= {protocol: (of["correct"], of["total"]) for protocol, of in task["expert"].items()}
        for field, (correct, total) in counts.items():
            is_count = isinstance(correct, int) and isinstance(total, int)
            if not is_count or not 0 <= correct <= total or not total:
                return f"it counts {correct} of {total} images of {name} as correct ({field})"
        if task["total"] != task["expert"]["final"]["total"]:
            return f"it has predictions of {task['total']} images of {name}, its expert those of another number"
    return "" if content["tasks"] else "it has no tasks"


def find_false_search(content: Mapping[str, Any]) -> str:
    """Returns how the scale does not follow from the search on val200 that the record holds, or an empty string."""
    search, config = content["search"], content["config"]
    fixed = config["merge"]["scale"]
    if search["scales"] != (config["scales"] if fixed is None else [fixed]):
        return f"its search tried the scales {search['scales']}, which are not those of its config"
    experts = {name: task["expert"]["tune"] for name, task in content["tasks"].items()}
    for scale, normalized, correct in zip(search["scales"], search["normalized"], search["correct"], strict=True):
        if correct.keys() != experts.keys() or any(
            not 0 <= correct[name] <= experts[name]["total"] for name in correct
        ):
            return f"its search has other tasks or impossible counts at scale {scale}"
        if normalized != (expected := mean_normalized(correct, experts)):
            return f"it states {normalized} on val200 at scale {scale}, its counts give {expected}"
    if content["scale"] != (expected := best_scale(search["scales"], search["normalized"])):
        return f"its scale is {content['scale']}, the best of its search is {expected}"
    return ""


def find_false_key(content: Mapping[str, Any]) -> str:
    """Returns how the names and the key of a record do not follow from its config and experts, or an empty string."""
    if content["algorithm"] != content["config"]["merge"]["name"]:
        return f"its algorithm is {content['algorithm']}, its config says {content['config']['merge']['name']}"
    pairs = [(task["expert"]["tune"]["key"], task["expert"]["final"]["key"]) for task in content["tasks"].values()]
    key = merge_key(content["config"], pairs, content["weights"]["sha256"], content["dtype"])
    if key != content["key"]:
        return f"its key is {content['key']}, its config, experts, weights and dtype give {key}"
    return ""


def find_false_experts(merge: CheckedMerge, results: Path) -> Iterator[str]:
    """Yields the experts whose records are not here, or do not say what the record of the merge states."""
    for task, own in merge.content["tasks"].items():
        for protocol in PROTOCOLS:
            stated = own["expert"][protocol]
            try:
                path = find_expert(merge.content, task, stated, results)
                expert = read_record(path)
                arrays = read_predictions(path, expert)
            except UserError as error:
                yield str(error)
                continue
            yield from find_other_statements(task, own, stated, expert, protocol)
            if protocol == "final" and arrays and not np.array_equal(arrays[1], merge.predictions[task]["label"]):
                yield f"its labels of {task} are not those of its expert"


def find_expert(content: Mapping[str, Any], task: str, stated: Mapping[str, Any], results: Path) -> Path:
    """Returns the record of an expert.

    It is in the results folder of the experts that the record of the merge names, or in the merge's own. An expert that
    was trained again has another record, because times differ, and the same tensors.

    Raises:
        UserError: if there is none, or it has changed.
    """
    names = (content["suite"], content["backbone"], task, content["method"], stated["key"])
    place = Path("records", *names, f"seed{content['seed']}.json")
    found = [path for folder in (results / content["experts"], results) if (path := folder / place).is_file()]
    same = [path for path in found if sha256_file(path) == stated["record_sha256"]]
    same += [
        path for path in found if (read_record(path).get("trained") or {}).get("sha256") == stated["trained_sha256"]
    ]
    if not same:
        raise UserError(f"it merged the expert of {place}, which {'has changed' if found else 'is missing'}")
    return same[0]


def find_other_statements(
    task: str, own: Mapping[str, Any], stated: Mapping[str, Any], expert: Mapping[str, Any], protocol: str
) -> Iterator[str]:
    """Yields what the record of a merge states of an expert or a task and the expert's record does not."""
    config = expert["config"]["task"]
    if expert["protocol"] != protocol:
        yield f"its {protocol} expert on {task} is one of protocol={expert['protocol']}"
    for name, value, expected in (
        ("correct", stated["correct"], expert["correct"]),
        ("total", stated["total"], expert["total"]),
        ("group", own["group"], config["group"]),
        ("num_classes", own["num_classes"], config["num_classes"]),
    ):
        if value != expected:
            yield f"it states {name} {value} of its {protocol} expert on {task}, whose record says {expected}"


def find_copied_seeds(merges: list[CheckedMerge]) -> Iterator[Finding]:
    """Yields the records whose search and predictions equal those of another seed of the same merge."""
    seen: dict[tuple[Any, ...], CheckedMerge] = {}
    for merge in merges:
        digest = hashlib.sha256(repr(merge.content["search"]["correct"]).encode())
        for task in sorted(merge.predictions):
            for name in ARRAYS:
                digest.update(np.ascontiguousarray(merge.predictions[task][name]).tobytes())
        outcome = (merge.path.rpartition("/")[0], merge.content["draw"], digest.hexdigest())
        other = seen.setdefault(outcome, merge)
        if other.content["seed"] != merge.content["seed"]:
            yield Finding(path=merge.path, problem=f"its search and predictions are those of {other.path}")
