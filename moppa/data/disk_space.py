"""Computes the disk space that cached splits need, and checks it before anything is written."""

import shutil
from pathlib import Path

from moppa.data.task import SPLITS, Task
from moppa.utils.errors import UserError

LABEL_BYTES = 8  # int64
NAME_BYTES = 64  # upper bound for a name with its quotes
DIGEST_BYTES = 32  # sha256
HEADER_BYTES = 1 << 14  # the headers of the arrays and the manifest


def split_bytes(task: Task, split: str, *, size: int) -> int:
    """Returns the most bytes that a cached split can take, computed from the task's definition."""
    return task.num_images(split) * (3 * size**2 + LABEL_BYTES + NAME_BYTES + DIGEST_BYTES) + HEADER_BYTES


def task_bytes(task: Task, *, size: int) -> int:
    """Returns the most bytes that the three cached splits of a task can take."""
    return sum(split_bytes(task, split, size=size) for split in SPLITS)


def check_free_space(purpose: str, num_bytes: int, folder: Path) -> None:
    """Raises `UserError` if the disk of `folder` has less than `num_bytes` free."""
    existing = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    num_free = shutil.disk_usage(existing).free
    if num_bytes > num_free:
        raise UserError(
            f"{purpose} needs {format_bytes(num_bytes)} in {folder}, where {format_bytes(num_free)} are free; make "
            f"room there, or choose another folder with data.cache=DIR"
        )


def format_bytes(num_bytes: int) -> str:
    """Returns a number of bytes in decimal units with three digits."""
    for unit, unit_bytes in {"GB": 1e9, "MB": 1e6}.items():
        amount = num_bytes / unit_bytes
        if amount >= 1:
            return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:.0f} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"
