"""Checks of a results folder that one record alone cannot show: its files, its links, and its neighbors."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moppa.record.claims import find_false_protocol, find_false_task
from moppa.record.integrity import find_inconsistency, read_predictions
from moppa.record.schema import identity_of, mean_accuracy, read_record, read_record_with_sha256
from moppa.utils.atomic import sha256_file
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong with one record. `path` is relative to the records folder."""

    path: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class CheckedRecord:
    """A record that agrees with itself, the sha256 of its file, and digests of its predictions and labels."""

    path: str
    content: Mapping[str, Any]
    sha256: str
    predictions: str
    labels: str

    def __getitem__(self, name: str) -> Any:
        return self.content[name]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The problems of a results folder, and what is no problem but should be known (`warnings`), both by path."""

    findings: list[Finding]
    warnings: list[Finding]


def verify_records(results: Path) -> Verification:
    """Returns every problem of the records below `results/records`.

    A record must agree with itself and with the protocol and the task that it names, lie at the path that its content
    gives, and have its predictions; trained tensors that are kept must be its own; the tune records that it names must
    exist and say what it states; two seeds must not be one; and all records of a task must have the same labels.
    """
    root = results / "records"
    records, findings = [], []
    for path in sorted(root.rglob("seed*.json")):
        try:
            records.append(check_record(path, root))
        except UserError as error:
            findings.append(Finding(path=path.relative_to(root).as_posix(), problem=str(error)))
    for check in (find_changed_tensors, find_broken_links):
        for record in records:
            findings += [Finding(path=record.path, problem=problem) for problem in check(record, results)]
    findings += [*find_copied_seeds(records), *find_other_labels(records)]
    findings.sort(key=lambda finding: (finding.path, finding.problem))
    return Verification(findings=findings, warnings=list(find_mixed_seeds(records)))


def check_record(path: Path, root: Path) -> CheckedRecord:
    """Returns a record with digests of its predictions.

    Raises:
        UserError: if it contradicts itself, its path or its predictions, or has no predictions.
    """
    content, sha256 = read_record_with_sha256(path)
    if problem := find_inconsistency(content):
        raise UserError(problem)
    names = [content[name] for name in ("suite", "backbone", "task", "method", "key")]
    expected, relative = "/".join([*names, f"seed{content['seed']}.json"]), path.relative_to(root).as_posix()
    if relative != expected:
        raise UserError(f"it belongs at {expected}")
    arrays = read_predictions(path, content)
    if arrays is None:
        raise UserError("its predictions (.npz) are missing")
    with np.load(path.with_suffix(".npz")) as file:
        problem = find_false_protocol(content, file.files) or find_false_task(content, CONFIGS)
    if problem:
        raise UserError(problem)
    predictions, labels = (hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for array in arrays)
    return CheckedRecord(path=relative, content=content, sha256=sha256, predictions=predictions, labels=labels)


def find_changed_tensors(record: CheckedRecord, results: Path) -> Iterator[str]:
    """Yields a problem if the trained tensors are kept and are not those that were evaluated."""
    file = (results / "checkpoints" / record.path).with_suffix(".safetensors")
    sha256 = (record.content.get("trained") or {}).get("sha256")
    if file.exists() and sha256 is not None and sha256_file(file) != sha256:
        yield f"its trained tensors {file} have changed"


def find_broken_links(record: CheckedRecord, results: Path) -> Iterator[str]:
    """Yields a problem if `hparams=best` selected the settings and the tune records do not say so."""
    tuned = record.content.get("tuned")
    if not tuned:
        return
    tunes = []
    for path, sha256 in tuned["records"].items():
        file = results / "records" / path
        if not file.is_file() or sha256_file(file) != sha256:
            yield f"it was tuned on {path}, which is missing or has changed"
            return
        tunes.append(read_record(file))
    if not tunes or any(tune["protocol"] != "tune" for tune in tunes):
        yield "it states that it was tuned, and names no tune record"
        return
    accuracy = mean_accuracy(tunes)
    if float(accuracy) != tuned["val200"]:
        yield f"it states {tuned['val200']} on val200, its tune records give {float(accuracy)}"
    for group in ("train", "method"):
        if any(identity_of(tune["config"][group]) != identity_of(record["config"][group]) for tune in tunes):
            yield f"its {group} settings are not those of the tune records that it names"


def find_copied_seeds(records: list[CheckedRecord]) -> Iterator[Finding]:
    """Yields the records whose predictions and losses equal those of another seed of the same cell.

    Seeds of a method that solves for its head (`method.fit`) are equal by right.
    """
    seen: dict[tuple[Any, ...], str] = {}
    for record in records:
        if record["config"]["method"].get("fit", "steps") != "steps":
            continue
        losses = tuple(float(epoch["loss"]) for epoch in record["curve"])
        outcome = (*record.path.split("/")[:-1], record.predictions, losses)
        if outcome in seen:
            yield Finding(path=record.path, problem=f"its predictions and losses are those of {seen[outcome]}")
        seen.setdefault(outcome, record.path)


def find_other_labels(records: list[CheckedRecord]) -> Iterator[Finding]:
    """Yields the records whose labels are not those of most records that evaluate the same split of the same task."""
    groups: dict[tuple[Any, ...], list[CheckedRecord]] = defaultdict(list)
    for record in records:
        names = ("suite", "task", "task_version")
        split = (record["config"]["protocol"]["evaluate"], record["config"]["task"]["splits"].get("test"))
        groups[(*(record[name] for name in names), record["split"]["lineage"], *split)].append(record)
    for group in groups.values():
        counts: dict[str, int] = defaultdict(int)
        for record in group:
            counts[record.labels] += 1
        usual = max(counts, key=lambda labels: counts[labels])
        for record in group:
            if record.labels != usual:
                yield Finding(path=record.path, problem="its labels differ from those of other records of this task")


def find_mixed_seeds(records: list[CheckedRecord]) -> Iterator[Finding]:
    """Yields the cells whose seeds were computed on different kinds of devices or by different matmul backends."""
    cells: dict[str, set[str]] = defaultdict(set)
    for record in records:
        device = record["device"]
        kind = " ".join(filter(None, (device.get("type"), device.get("matmul_backend"))))
        cells[record.path.rpartition("/")[0]].add(kind or device["name"])
    for path, kinds in cells.items():
        if len(kinds) > 1:
            yield Finding(path=path, problem=f"its seeds were computed in different ways: {', '.join(sorted(kinds))}")
