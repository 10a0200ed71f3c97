"""Reads the records that tables are computed from, and lists the files that are broken, inconsistent or duplicate."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from moppa.record import integrity
from moppa.record.schema import read_record_with_sha256
from moppa.record.submitted import submitted_packs
from moppa.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ValidRecord:
    """A record whose fields agree with each other; `relative_path` is its path relative to `results/records`.

    `sender` is the name of whoever sent it, or empty.
    """

    path: Path
    relative_path: str
    content: Mapping[str, Any] = field(repr=False)
    sha256: str
    sender: str = ""

    def __getitem__(self, name: str) -> Any:
        return self.content[name]

    @cached_property
    def accuracy(self) -> Fraction:
        """The accuracy in percent."""
        return Fraction(100 * self.content["correct"], self.content["total"])


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """A file that no table counts, and the reason; the other fields say which row it would belong to."""

    relative_path: str
    reason: str
    suite: str
    backbone: str
    method: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predictions stored beside a record: bool (images,), and a digest of the labels."""

    correct: np.ndarray
    labels: str


def load_records(results: Path) -> tuple[list[ValidRecord], list[Excluded]]:
    """Returns the records below `results/records`, those that were sent, and the files that had to be excluded.

    All are sorted by path.

    Raises:
        UserError: if the manifest of a pack below `results/submitted` cannot be read.
    """
    root = results / "records"
    valid, excluded = [], []
    for folder, sender in {results: "", **submitted_packs(results)}.items():
        for path in sorted((folder / "records").rglob("seed*.json")):
            try:
                valid.append(load_record(path, root, sender))
            except UserError as error:
                excluded.append(exclude_file(path, root, str(error)))
    records, duplicates = drop_duplicates(valid)
    return records, sorted(excluded + duplicates, key=lambda file: file.relative_path)


def load_record(path: Path, root: Path, sender: str = "") -> ValidRecord:
    """Returns a record, with its path relative to the records folder `root`.

    Raises:
        UserError: if the file is not a record, or if its fields contradict each other.
    """
    content, sha256 = read_record_with_sha256(path)
    if problem := integrity.find_inconsistency(content):
        raise UserError(f"{problem}; delete it and run its cell again")
    return ValidRecord(path=path, relative_path=relative_to(path, root), content=content, sha256=sha256, sender=sender)


def relative_to(path: Path, root: Path) -> str:
    """Returns a path relative to the records folder; that of a record that was sent is ../submitted/PACK/records/..."""
    return Path(os.path.relpath(path, root)).as_posix()


def exclude_file(path: Path, root: Path, reason: str) -> Excluded:
    """Excludes a file that cannot be read; its path, `SUITE/BACKBONE/TASK/METHOD/KEY/seedK.json`, names its row."""
    relative_path = relative_to(path, root)
    suite, backbone, _, method, key = ("", "", "", "", "", *relative_path.split("/")[:-1])[-5:]
    row = {"suite": suite, "backbone": backbone, "method": method, "key": key}
    return Excluded(relative_path=relative_path, reason=reason.removeprefix(f"{path} is not a record: "), **row)


def exclude_record(record: ValidRecord, reason: str) -> Excluded:
    """Excludes a record that can be read but contradicts something else."""
    names = {name: record[name] for name in ("suite", "backbone", "method", "key")}
    return Excluded(relative_path=record.relative_path, reason=reason, **names)


def drop_duplicates(records: Iterable[ValidRecord]) -> tuple[list[ValidRecord], list[Excluded]]:
    """Returns one record of each cell: of several, the one at the path that its key names, or none if none is there."""
    by_cell: dict[tuple[str, ...], list[ValidRecord]] = defaultdict(list)
    for record in records:
        cell = tuple(str(record[name]) for name in ("suite", "backbone", "task", "method", "key", "seed"))
        by_cell[(record.sender, *cell)].append(record)
    unique, duplicates = [], []
    for (_, *cell), copies in by_cell.items():
        expected = "/".join((*cell[:-1], f"seed{cell[-1]}.json"))
        kept = [record for record in copies if record.relative_path == expected] if len(copies) > 1 else copies
        unique += kept
        for record in copies:
            if record not in kept:
                other = next(copy.relative_path for copy in copies if copy is not record)
                duplicates.append(exclude_record(record, f"the same cell is also in {other}; delete one of the two"))
    return unique, duplicates


def digest_records(records: Iterable[ValidRecord]) -> str:
    """Returns 16 hex digits over the paths and contents of records, in any order."""
    lines = sorted(f"{record.sha256}  {record.relative_path}" for record in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def correctness(record: ValidRecord) -> Predictions | None:
    """Returns which images a record's cell predicts correctly, or None if there is no prediction file.

    Raises:
        UserError: if the predictions contradict the record.
    """
    if (arrays := read_predictions(record)) is None:
        return None
    predicted, label = arrays
    return Predictions(correct=predicted == label, labels=hashlib.sha256(label.tobytes()).hexdigest())


def read_predictions(record: ValidRecord) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the predicted classes and the labels, (images,) each, or None if there is no prediction file.

    Raises:
        UserError: if the file cannot be read or contradicts the record.
    """
    return integrity.read_predictions(record.path, record.content)
