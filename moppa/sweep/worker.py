"""One worker at one cell: it leases the cell, cleans up after a worker that died, and records a failure."""

import os
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from moppa.record.cell import Cell
from moppa.sweep.done import report_done
from moppa.sweep.lease import acquire_lease, lease_owner
from moppa.utils.atomic import write_json
from moppa.utils.errors import UserError
from moppa.utils.signals import exit_on_sigterm


@contextmanager
def lease(cell: Cell) -> Iterator[bool]:
    """Yields whether this process is to run the cell; no other worker with the same results folder runs it meanwhile.

    Partial files of a killed worker are removed first. An error is written to `cell.failure` and raised again.

    Raises:
        UserError: if the results folder cannot be written.
    """
    if cell.is_done and not cell.lease.exists():
        report_done(cell)
        yield False
        return
    file_lease = acquire_lease(cell.lease)
    if file_lease is None:
        print(f"{cell.name} is running elsewhere ({lease_owner(cell.lease)}), skipped", file=sys.stderr)
        yield False
        return
    try:
        remove_leftovers(cell)
        if cell.is_done:  # by a worker that died before it released the lease
            report_done(cell)
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
        file_lease.release()


def remove_leftovers(cell: Cell) -> None:
    """Removes the temporary files of a killed worker, and the checkpoint and failure of a finished cell."""
    for path in (cell.record, cell.checkpoint):
        for leftover in (*path.parent.glob(f".{path.stem}.*"), *path.parent.glob(f"..{path.stem}.*")):
            leftover.unlink(missing_ok=True)
    if cell.is_done:
        cell.checkpoint.unlink(missing_ok=True)
        cell.failure.unlink(missing_ok=True)


def save_failure(cell: Cell, error: Exception) -> None:
    """Writes the error, its traceback and the config to `cell.failure`; prints a line if that is impossible."""
    failure = {
        "error": f"{type(error).__name__}: {error}",
        "traceback": "".join(traceback.format_exception(error)).splitlines(),
        "worker": f"process {os.getpid()} on {socket.gethostname()}",
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "config": cell.config,
    }
    try:
        write_json(cell.failure, failure)
    except UserError as write_failure:
        print(f"{cell.name} failed, and the failure could not be saved: {write_failure}", file=sys.stderr)
    else:
        error.traceback_file = cell.failure  # type: ignore[attr-defined]  # the line that ends the program names it
        print(f"{cell.name} failed: see {cell.failure}", file=sys.stderr)
