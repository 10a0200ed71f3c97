"""Files that exist as a whole or not at all: written under a temporary name in the same folder, then renamed."""

import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from moppa.utils.errors import UserError

FIXES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: "that file system is read-only: choose another folder",
    errno.EACCES: "you may not write there: choose another folder or change its permissions",
    errno.EPERM: "you may not write there: choose another folder or change its permissions",
    errno.ENOTDIR: "there is a file in place of a folder: choose another folder",
    errno.EEXIST: "there is a file in place of a folder: choose another folder",
}


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`. On success it replaces `target`, on failure it is deleted.

    The file has the permissions of any new file there, also if the library that writes it makes it private.

    Raises:
        UserError: if the file system refuses.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        temporary.unlink()
        yield temporary
        if temporary.stat().st_mode != mode:
            temporary.chmod(mode)
        temporary.replace(target)
    except UserError:
        raise
    except Exception as error:
        refusal = system_error(error)
        if refusal is None:
            raise
        raise write_error(target, refusal) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Writes text as a whole or not at all.

    Raises:
        UserError: if the file system refuses.
    """
    with atomic_write(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON that is the same for equal content, as a whole or not at all.

    Raises:
        UserError: if the file system refuses.
    """
    write_text(target, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_error(target: Path, error: OSError) -> UserError:
    """Returns the error to raise if `target` cannot be written, with what to do about it."""
    fix = FIXES.get(error.errno or 0, "choose another folder with run.results=DIR or data.cache=DIR")
    return UserError(f"cannot write {target}: {error.strerror or error}; {fix}. No partial file was left")


def system_error(error: BaseException | None) -> OSError | None:
    """Returns the error of the file system behind the error of a library that writes files, or None."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        if number := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors is written in Rust
            return OSError(int(number[1]), os.strerror(int(number[1])))
        error = error.__cause__ or error.__context__  # torch.save raises its own error while it handles the file's
    return None


def sha256_file(path: Path) -> str:
    """Returns the sha256 of a file, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
