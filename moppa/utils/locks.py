"""Locks between processes, on a file system that has them."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from moppa.utils.errors import UserError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextmanager
def file_lock(path: Path, *, waiting: str) -> Iterator[None]:
    """Holds the lock file at `path` during a block. If another process holds it, prints `waiting` and waits.

    Raises:
        UserError: if the file system has no locks, as some network file systems, or if its locks exclude nobody.
    """
    lock = FileLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(waiting, file=sys.stderr)
            lock.acquire()
    except NotImplementedError as error:
        raise no_locks(path) from error
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise no_locks(path) from error
        raise
    try:
        if not excludes_others(path):
            raise no_locks(path)
        yield
    finally:
        lock.release()


def excludes_others(path: Path) -> bool:
    """Returns whether a lock that is held keeps out another holder. Some network file systems accept every lock."""
    if os.name != "posix":
        return True
    import fcntl

    with path.open("r+b") as file, suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    return True


def no_locks(path: Path) -> UserError:
    """Returns the error for a folder in which processes cannot wait for each other."""
    return UserError(
        f"the file system of {path.parent} has no working file locks, without which two processes would write the same "
        f"files: choose a folder on another one, with data.cache=DIR or data.dir=DIR"
    )
