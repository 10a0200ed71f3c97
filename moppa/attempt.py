"""One worker at a cell: it claims the cell, clears up after one that died, and leaves a record or why there is none."""

import json
import os
import socket
import sys
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from filelock import SoftFileLease, Timeout

from moppa.errors import UserError
from moppa.files import cannot_write, whole_file
from moppa.record import Cell
from moppa.stop import terminable

LEASE_SECONDS = 60.0  # a claim without a heartbeat for so long is a dead worker's; it beats every third of it
NAMELESS_SECONDS = 5.0  # between making a claim and writing one's name in it lie microseconds


@contextmanager
def attempt(cell: Cell) -> Iterator[bool]:
    """Whether the cell is to be run here. While the block runs no other worker that shares the folder runs it.

    What a killed worker left half-written is removed first. An error is kept as `cell.failure` and goes on its way.

    Raises:
        UserError: where the folder cannot be written.
    """
    if cell.is_done and not cell.claim.exists():
        print(f"done already: {cell.record}")
        yield False
        return
    claim = claimed(cell.claim)
    if claim is None:
        print(f"{cell.name} is at work elsewhere ({owner_of(cell.claim)}): left to it", file=sys.stderr)
        yield False
        return
    try:
        clear(cell)
        if cell.is_done:  # by a worker that died before it gave the claim back
            print(f"done already: {cell.record}")
            yield False
        else:
            cell.check_writable()
            with terminable():
                yield True
            cell.failure.unlink(missing_ok=True)
    except Exception as error:
        keep_failure(cell, error)
        raise
    finally:
        claim.release()


def claimed(path: Path) -> SoftFileLease | None:
    """The claim, or None while another worker's stands. One whose worker died is taken over.

    On one machine a dead worker is known at once. Elsewhere only its heartbeat tells: a claim that seems to have
    none is watched for as long as a lease lasts.
    """
    claim = SoftFileLease(path, lease_duration=LEASE_SECONDS, on_compromise=warn)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_nameless(path)
        try:
            claim.acquire(timeout=0)
        except Timeout:
            if age_of(path) <= LEASE_SECONDS:
                return None
            print(f"watching {path}: its worker ({owner_of(path)}) seems to be dead", file=sys.stderr)
            claim.acquire(timeout=1.5 * LEASE_SECONDS)
    except Timeout:
        return None
    except OSError as error:
        raise cannot_write(path, error) from error
    return claim


def remove_nameless(path: Path) -> None:
    """Removes the claim of a worker that was killed before it wrote its name, which nobody could call dead."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with suppress(FileNotFoundError):
        if path.stat().st_size == 0 and age_of(path) > NAMELESS_SECONDS:
            path.rename(aside)
            if aside.stat().st_size:  # not that one: another worker removed it and claimed the cell
                with suppress(FileExistsError):
                    path.hardlink_to(aside)
            aside.unlink()


def age_of(path: Path) -> float:
    """Seconds since a claim's last heartbeat, by the clock of the file system that it lies on; 0 where there is none."""
    now = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        now.touch()
        return now.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:  # the claim was given back meanwhile
        return 0.0
    finally:
        now.unlink(missing_ok=True)


def owner_of(path: Path) -> str:
    """Host and process of a claim's worker, as far as the claim says."""
    owner = SoftFileLease(path, lease_duration=LEASE_SECONDS).owner
    return f"process {owner.pid} on {owner.hostname}" if owner else "unknown"


def warn(_: object) -> None:
    """A worker that was asleep for longer than a lease has lost its cell; both write the same bytes."""
    print("the claim on this cell was lost: another worker may be running it too", file=sys.stderr)


def clear(cell: Cell) -> None:
    """Removes what a killed worker left half-written, and what a finished cell no longer needs."""
    for place in (cell.record, cell.checkpoint):
        for left in (*place.parent.glob(f".{place.stem}.*"), *place.parent.glob(f"..{place.stem}.*")):
            left.unlink(missing_ok=True)
    if cell.is_done:
        cell.checkpoint.unlink(missing_ok=True)
        cell.failure.unlink(missing_ok=True)


def keep_failure(cell: Cell, error: Exception) -> None:
    """Writes why a cell failed beside where its record would be; says so where even that cannot be written."""
    failure = {
        "error": f"{type(error).__name__}: {error}",
        "traceback": "".join(traceback.format_exception(error)),
        "worker": f"process {os.getpid()} on {socket.gethostname()}",
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "config": cell.config,
    }
    try:
        with whole_file(cell.failure) as temporary:
            temporary.write_text(json.dumps(failure, indent=2, sort_keys=True) + "\n")
    except UserError as unwritable:
        print(f"{cell.name} failed, which could not be noted: {unwritable}", file=sys.stderr)
    else:
        print(f"{cell.name} failed: {cell.failure} says how", file=sys.stderr)
