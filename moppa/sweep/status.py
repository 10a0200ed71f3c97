"""How far a cell is: done, stale, running, resumable, failed or missing, and why."""

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
    """The name of a state, and the last line of why, where there is more to say. `record` is what stands there."""

    name: Name
    note: str = ""
    record: Mapping[str, Any] | None = None


def cell_state(record: Path, checkpoint: Path, versions: Mapping[str, str] | None) -> State:
    """The state of the cell with this record and checkpoint.

    It is stale where its record was made by other versions than `versions` of what can move a number: the same
    command may not give the same bytes. None compares nothing.
    """
    claim, failure = record.with_suffix(".claim"), record.with_suffix(".failed")
    if record.exists():
        return state_of_record(record, versions)
    if claim.exists() and is_active(claim):
        return State(name="running", note=lease_owner(claim))
    if failure.exists():
        return State(name="failed", note=error_of(failure))
    if checkpoint.exists():
        return State(name="resumable")
    if claim.exists():
        return State(name="failed", note=f"killed: {lease_owner(claim)} ended without a word")
    return State(name="missing")


def state_of_record(record: Path, versions: Mapping[str, str] | None) -> State:
    """Done, or stale, or, where it is no record, failed."""
    try:
        one = schema.read_record(record)
    except UserError as error:
        return State(name="failed", note=str(error))
    moved = [
        f"{name} {version}" for name, version in one["versions"].items() if versions and versions.get(name) != version
    ]
    return State(name="stale" if moved else "done", note=f"by {', '.join(moved)}" if moved else "", record=one)


def error_of(failure: Path) -> str:
    """The last line of a failure."""
    try:
        return str(json.loads(failure.read_text())["error"]).strip().splitlines()[-1]
    except (OSError, ValueError, KeyError, IndexError):
        return f"{failure} cannot be read"
