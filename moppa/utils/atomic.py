"""Files that are there whole or not at all: written to a temporary name beside the target, then renamed."""

import errno
import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moppa.utils.errors import UserError


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`; on success it takes the target's place, on failure it is removed."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_error(target: Path, error: OSError) -> UserError:
    """What to tell the user when the disk says no."""
    way_out = {
        errno.ENOSPC: "make room there",
        errno.EDQUOT: "make room there",
        errno.EROFS: "that file system is read-only: choose another folder",
        errno.EACCES: "you may not write there: choose another folder or change its rights",
        errno.EPERM: "you may not write there: choose another folder or change its rights",
        errno.ENOTDIR: "a file stands where a folder is needed: choose another folder",
        errno.EEXIST: "a file stands where a folder is needed: choose another folder",
    }.get(error.errno or 0, "choose another folder with run.results=DIR or data.cache=DIR")
    return UserError(f"cannot write {target}: {error.strerror or error}; {way_out}. Nothing half-written was left")


def sha256_file(path: Path) -> str:
    """The sha256 of a file, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
