"""A claim: a file that names the one worker at a cell, kept young by a heartbeat and taken over from the dead."""

import os
import socket
import sys
import uuid
from contextlib import suppress
from pathlib import Path

from filelock import SoftFileLease, Timeout

from moppa.utils.atomic import write_error

LEASE_SECONDS = 60.0  # a claim without a heartbeat for so long is a dead worker's; it beats every third of it
UNSIGNED_SECONDS = 5.0  # between making a claim and writing one's name in it lie microseconds


def acquire_lease(path: Path) -> SoftFileLease | None:
    """The claim, or None while another worker's stands. One whose worker died is taken over.

    On one machine a dead worker is known at once. Elsewhere only its heartbeat tells: a claim that seems to have
    none is watched for as long as a lease lasts.
    """
    claim = SoftFileLease(path, lease_duration=LEASE_SECONDS, on_compromise=warn)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unsigned(path)
        try:
            claim.acquire(timeout=0)
        except Timeout:
            if lease_age(path) <= LEASE_SECONDS:
                return None
            print(f"watching {path}: its worker ({lease_owner(path)}) seems to be dead", file=sys.stderr)
            claim.acquire(timeout=1.5 * LEASE_SECONDS)
    except Timeout:
        return None
    except OSError as error:
        raise write_error(path, error) from error
    return claim


def remove_unsigned(path: Path) -> None:
    """Removes the claim of a worker that was killed before it wrote its name, which nobody could call dead."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with suppress(FileNotFoundError):
        if path.stat().st_size == 0 and lease_age(path) > UNSIGNED_SECONDS:
            path.rename(aside)
            if aside.stat().st_size:  # not that one: another worker removed it and claimed the cell
                with suppress(FileExistsError):
                    path.hardlink_to(aside)
            aside.unlink()


def lease_age(path: Path) -> float:
    """Seconds since a claim's last heartbeat, by the clock of the file system it lies on; 0 where there is none."""
    now = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        now.touch()
        return now.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:  # the claim was given back meanwhile
        return 0.0
    finally:
        now.unlink(missing_ok=True)


def is_active(path: Path) -> bool:
    """Whether a claim's worker lives, as far as this machine can tell without watching."""
    owner = SoftFileLease(path, lease_duration=LEASE_SECONDS).owner
    if owner is None:
        return path.exists() and lease_age(path) <= UNSIGNED_SECONDS
    return lease_age(path) <= LEASE_SECONDS and not (owner.hostname == socket.gethostname() and is_gone(owner.pid))


def is_gone(pid: int) -> bool:
    """Whether this machine has no such process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        return False
    return False


def lease_owner(path: Path) -> str:
    """Host and process of a claim's worker, as far as the claim says."""
    owner = SoftFileLease(path, lease_duration=LEASE_SECONDS).owner
    return f"process {owner.pid} on {owner.hostname}" if owner else "unknown"


def warn(_: object) -> None:
    """A worker that was asleep for longer than a lease has lost its cell; both write the same bytes."""
    print("the claim on this cell was lost: another worker may be running it too", file=sys.stderr)
