"""Computes sha256 digests of files, and remembers them, so that a start reads only the files that have changed."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from moppa.utils.atomic import atomic_write, sha256_file
from moppa.utils.errors import UserError
from moppa.utils.progress import progress_bar

NUM_THREADS = 8  # they wait for the disk
MIN_BAR = 2000  # files to read from which on a progress bar is shown
SETTLED_NS = (
    2 * 10**9
)  # younger files are not remembered: a change within the same tick of the clock has the same times

Stamp = tuple[int, int, int]  # size, time of the last change of the content, and of the file's entry, in nanoseconds


def file_digests(files: Sequence[Path], memory: Path) -> list[str]:
    """Returns the sha256 of each file, in order.

    A file is read only if its size or times are not those in the file `memory`, which is updated.

    Raises:
        UserError: if a file cannot be read.
    """
    known, now = read_memory(memory), time.time_ns()
    names = [str(file) for file in files]
    stamps = {name: stamp_of(name) for name in names}
    changed = [name for name, stamp in stamps.items() if known.get(name, [None])[:-1] != list(stamp)]
    digests = {name: entry[-1] for name, entry in known.items()} | dict(zip(changed, read_all(changed), strict=True))
    if changed:
        settled = {name: stamp for name, stamp in stamps.items() if max(stamp[1:]) < now - SETTLED_NS}
        with suppress(UserError), atomic_write(memory) as temporary:  # a cache that is read-only can still be read
            temporary.write_text(json.dumps({name: [*stamp, digests[name]] for name, stamp in settled.items()}))
    return [digests[name] for name in names]


def read_memory(memory: Path) -> dict[str, Any]:
    """Returns what was remembered: by path, the stamp and the sha256. It is empty if the file cannot be read."""
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def stamp_of(name: str) -> Stamp:
    """Returns size and times of a file; they change whenever its content does."""
    try:
        stat = os.stat(name)  # noqa: PTH116, twice as fast as Path.stat
    except OSError as error:
        raise unreadable(Path(name), error) from error
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def read_all(names: Sequence[str]) -> list[str]:
    """Returns the sha256 of files that are read now, with a bar if they are many."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        digests = pool.map(digest_of, map(Path, names))
        if len(names) < MIN_BAR:
            return list(digests)
        with progress_bar() as bar:
            line = bar.add_task("reading files that are new", total=len(names), note="")
            return [digest for digest in digests if bar.advance(line) is None]


def digest_of(file: Path) -> str:
    """Returns the sha256 of a file."""
    try:
        return sha256_file(file)
    except OSError as error:
        raise unreadable(file, error) from error


def unreadable(file: Path, error: OSError) -> UserError:
    """Returns the error for a file that is missing or that the user may not read."""
    return UserError(f"{file} cannot be read ({error.strerror or error}); put it there or remove its row")


def digest_lines(lines: Sequence[str]) -> str:
    """Returns the sha256 of lines of text, which may hold file names that are not UTF-8."""
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
