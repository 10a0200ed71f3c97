"""A lease: a file that names the one worker of a cell, renewed by a heartbeat and taken over from a dead worker."""

import os
import socket
import sys
import uuid
from contextlib import suppress
from pathlib import Path

from filelock import SoftFileLease, Timeout

from moppa.utils.atomic import write_error

LEASE_SECONDS = 60.0  # a lease without a heartbeat for this long has expired; the heartbeat comes every third of it
UNSIGNED_SECONDS = 5.0  # a worker writes its name microseconds after it creates the file


def acquire_lease(path: Path) -> SoftFileLease | None:
    """Acquires the lease file at `path`. Returns None if another worker holds it.

    The lease of a dead worker is taken over: at once if the worker ran on this machine, otherwise only if no heartbeat
    comes while the file is watched for longer than a lease lasts.

    Raises:
        UserError: if the folder cannot be written.
    """
    file_lease = SoftFileLease(path, lease_duration=LEASE_SECONDS, on_compromise=warn_lost)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unsigned(path)
        try:
            file_lease.acquire(timeout=0)
        except Timeout:
            if is_fresh(path, LEASE_SECONDS):
                return None
            print(f"watching {path}: its worker ({lease_owner(path)}) seems to be dead", file=sys.stderr)
            file_lease.acquire(timeout=1.5 * LEASE_SECONDS)
    except Timeout:
        return None
    except OSError as error:
        raise write_error(path, error) from error
    return file_lease


def remove_unsigned(path: Path) -> None:
    """Removes a lease file that its worker did not live to sign: without a name in it, it would never expire."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with suppress(FileNotFoundError):
        if path.stat().st_size == 0 and not is_fresh(path, UNSIGNED_SECONDS):
            path.rename(aside)
            if aside.stat().st_size:  # another worker has removed the unsigned file and acquired the lease: restore it
                with suppress(FileExistsError):
                    path.hardlink_to(aside)
            aside.unlink()


def lease_age(path: Path) -> float:
    """Returns the seconds since the last heartbeat, by the file system's clock; 0 if there is no lease."""
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:  # released in the meantime
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def is_fresh(path: Path, seconds: float) -> bool:
    """Returns whether the last heartbeat was within so many seconds.

    A heartbeat in the future comes from a wrong clock, which says nothing about when it was: such a lease is watched.
    """
    return abs(lease_age(path)) <= seconds


def is_active(path: Path) -> bool:
    """Returns whether the worker of a lease is alive, as far as this machine can tell without watching the file."""
    owner = SoftFileLease(path, lease_duration=LEASE_SECONDS).owner
    if owner is None:
        return path.exists() and is_fresh(path, UNSIGNED_SECONDS)
    is_dead = owner.hostname == socket.gethostname() and not process_exists(owner.pid)
    return is_fresh(path, LEASE_SECONDS) and not is_dead


def process_exists(pid: int) -> bool:
    """Returns whether this machine has a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True


def lease_owner(path: Path) -> str:
    """Returns the process and host that the lease file names, or "unknown"."""
    owner = SoftFileLease(path, lease_duration=LEASE_SECONDS).owner
    return f"process {owner.pid} on {owner.hostname}" if owner else "unknown"


def warn_lost(_: object) -> None:
    """Warns that a lease was lost because this worker was suspended. Both workers write the same bytes."""
    print("the lease of this cell was lost: another worker may be running it too", file=sys.stderr)
