"""One worker at a cell: it claims the cell, clears up after one that died, and leaves a record or why there is none."""

import json
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from moppa.record.cell import Cell
from moppa.sweep.lease import acquire_lease, lease_owner
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError
from moppa.utils.signals import exit_on_sigterm


@contextmanager
def lease_cell(cell: Cell) -> Iterator[bool]:
    """Whether the cell is to be run here. While the block runs no other worker that shares the folder runs it.

    What a killed worker left half-written is removed first. An error is kept as `cell.failure` and goes on its way.

    Raises:
        UserError: where the folder cannot be written.
    """
    if cell.is_done and not cell.claim.exists():
        print(f"done already: {cell.record}")
        yield False
        return
    claim = acquire_lease(cell.claim)
    if claim is None:
        print(f"{cell.name} is at work elsewhere ({lease_owner(cell.claim)}): left to it", file=sys.stderr)
        yield False
        return
    try:
        remove_leftovers(cell)
        if cell.is_done:  # by a worker that died before it gave the claim back
            print(f"done already: {cell.record}")
            yield False
        else:
            cell.check_writable()
            with exit_on_sigterm():
                yield True
            cell.failure.unlink(missing_ok=True)
    except Exception as error:
        save_failure(cell, error)
        raise
    finally:
        claim.release()


def remove_leftovers(cell: Cell) -> None:
    """Removes what a killed worker left half-written, and what a finished cell no longer needs."""
    for place in (cell.record, cell.checkpoint):
        for left in (*place.parent.glob(f".{place.stem}.*"), *place.parent.glob(f"..{place.stem}.*")):
            left.unlink(missing_ok=True)
    if cell.is_done:
        cell.checkpoint.unlink(missing_ok=True)
        cell.failure.unlink(missing_ok=True)


def save_failure(cell: Cell, error: Exception) -> None:
    """Writes why a cell failed beside where its record would be; says so where even that cannot be written."""
    failure = {
        "error": f"{type(error).__name__}: {error}",
        "traceback": "".join(traceback.format_exception(error)),
        "worker": f"process {os.getpid()} on {socket.gethostname()}",
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "config": cell.config,
    }
    try:
        with atomic_write(cell.failure) as temporary:
            temporary.write_text(json.dumps(failure, indent=2, sort_keys=True) + "\n")
    except UserError as unwritable:
        print(f"{cell.name} failed, which could not be noted: {unwritable}", file=sys.stderr)
    else:
        print(f"{cell.name} failed: {cell.failure} says how", file=sys.stderr)
