"""What the store takes on disk, known before anything is written."""

import shutil
from pathlib import Path

from moppa.data.task import Task
from moppa.utils.errors import UserError

LABEL_BYTES = 8  # int64
NAME_BYTES = 64  # a name and its quotes, as an upper bound
HEADER_BYTES = 1 << 14  # the arrays' headers and the manifest
SPLITS = ("train800", "val200", "test")


def split_bytes(task: Task, part: str, *, size: int) -> int:
    """What a part takes in the store at most, by the task's definition alone."""
    return task.size_of(part) * (3 * size**2 + LABEL_BYTES + NAME_BYTES) + HEADER_BYTES


def task_bytes(task: Task, *, size: int) -> int:
    """What the three parts of a task take."""
    return sum(split_bytes(task, part, size=size) for part in SPLITS)


def check_free_space(what: str, needed: int, folder: Path) -> None:
    """Fails where the disk that holds `folder` has less than `needed` bytes free."""
    stands = next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path("/"))
    free = shutil.disk_usage(stands).free
    if needed > free:
        raise UserError(
            f"{what} needs {format_bytes(needed)} in {folder}, where {format_bytes(free)} are free; make room there, or "
            f"choose another folder with data.cache=DIR"
        )


def format_bytes(num_bytes: int) -> str:
    """Bytes as people read them: decimal units, three digits."""
    for unit, worth in {"GB": 1e9, "MB": 1e6}.items():
        if num_bytes >= worth:
            return f"{num_bytes / worth:.3g} {unit}" if num_bytes < 1000 * worth else f"{num_bytes / worth:.0f} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"
