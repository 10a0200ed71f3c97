"""The state of a cell (done, stale, running, resumable, failed or missing), read from its files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moppa.record import schema
from moppa.sweep.lease import is_active, lease_owner
from moppa.utils.errors import UserError

Name = Literal["done", "stale", "running", "resumable", "failed", "missing"]
NAMES: tuple[Name, ...] = ("done", "stale", "running", "resumable", "failed", "missing")


@dataclass(frozen=True, kw_only=True)
class State:
    """The name of a state, one line that explains it (may be empty), and the record if there is one."""

    name: Name
    note: str = ""
    record: Mapping[str, Any] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether a sweep skips the cell."""
        return self.name in ("done", "stale")


def cell_state(record: Path, checkpoint: Path, versions: Mapping[str, str] | None) -> State:
    """Returns the state of the cell with this record and checkpoint.

    A record that was written by other package versions than `versions` is stale: the same command may not give the same
    bytes today. With None, versions are not compared.
    """
    lease, failure = record.with_suffix(".lease"), record.with_suffix(".failed")
    if record.exists():
        return record_state(record, versions)
    if lease.exists() and is_active(lease):
        return State(name="running", note=lease_owner(lease))
    if failure.exists():
        return State(name="failed", note=failure_line(failure))
    if checkpoint.exists():
        return State(name="resumable")
    if lease.exists():
        return State(name="failed", note=f"killed: {lease_owner(lease)} ended without an error message")
    return State(name="missing")


def record_state(record: Path, versions: Mapping[str, str] | None) -> State:
    """Returns done or stale, or failed if the file is not a valid record."""
    try:
        content = schema.read_record(record)
    except UserError as error:
        return State(name="failed", note=str(error))
    changed = [
        f"{name} {version}"
        for name, version in content["versions"].items()
        if versions and versions.get(name) != version
    ]
    note = f"written by {', '.join(changed)}" if changed else ""
    return State(name="stale" if changed else "done", note=note, record=content)


def failure_line(failure: Path) -> str:
    """Returns the last line of the error in a failure file."""
    try:
        return str(json.loads(failure.read_text(encoding="utf-8"))["error"]).strip().splitlines()[-1]
    except (OSError, ValueError, KeyError, IndexError):
        return f"{failure} cannot be read"
