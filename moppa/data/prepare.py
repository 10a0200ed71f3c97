"""Prepares the cache: each split is decoded and resized once, and its folder appears complete or not at all.

The split is written to a hidden folder beside its own, under a lock, and renamed at the end. The hidden folder of an
interrupted run stays; the next run resumes there (see `moppa.data.journal`).
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moppa.data.copies import install_from_mirror
from moppa.data.disk_space import check_free_space, split_bytes
from moppa.data.images import ImageFormat
from moppa.data.source import Source, SourceWithVersions
from moppa.data.split import read_manifest, split_folder
from moppa.data.task import Task
from moppa.data.write_split import write_split
from moppa.utils.atomic import write_error
from moppa.utils.errors import UserError
from moppa.utils.locks import file_lock


def ensure_prepared(task: Task, split: str, source: Source, image_format: ImageFormat) -> Path:
    """Returns the folder of a cached split and prepares it if it is absent.

    Raises:
        UserError: if the source cannot provide the split, or if it holds another version of the data set.
    """
    folder = split_folder(task, split, source, image_format)
    if not is_prepared(folder):
        prepare(task, split, source, image_format)
    elif isinstance(source, SourceWithVersions):
        source.check_origin(task, read_manifest(folder, task, split).get("origin") or "")
    return folder


def is_prepared(folder: Path) -> bool:
    """Returns whether a split's folder is complete: its manifest is written last."""
    return (folder / "manifest.json").exists()


def prepare(task: Task, split: str, source: Source, image_format: ImageFormat) -> None:
    """Decodes and resizes a split into the cache. A second process that wants the same split waits for the first.

    Raises:
        UserError: if the disk is too small, or if the images are not those that the task describes. Nothing is left.
    """
    folder = split_folder(task, split, source, image_format)
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        with preparation_lock(folder):
            if is_prepared(folder):  # by the process that held the lock before
                return
            if install_from_mirror(folder, getattr(source, "mirror", None), source.cache):
                read_manifest(folder, task, split)
                return
            num_bytes = split_bytes(task, split, size=image_format.size)
            num_bytes -= sum(file.stat().st_size for file in temporary.glob("*"))  # of an interrupted run
            check_free_space(f"task {task.name}: {split} at {image_format.size} px", num_bytes, folder)
            try:
                write_split(temporary, task, split, source, image_format)
                if split_folder(task, split, source, image_format) != folder:
                    raise UserError(f"task {task.name}: images of {split} changed while they were read; run it again")
            except (UserError, OSError):
                shutil.rmtree(temporary, ignore_errors=True)  # resuming would fail again
                raise
            temporary.rename(folder)
    except OSError as error:
        raise write_error(folder, error) from error


@contextmanager
def preparation_lock(folder: Path) -> Iterator[None]:
    """Holds the lock of `folder`, so that one process at a time prepares it. The lock of a dead process is free."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(f".{folder.name}.lock")
    with file_lock(file, waiting=f"another run prepares {folder}: waiting for it"):
        try:
            yield
        finally:
            with suppress(OSError):
                # removed before the release: a process that waits for the old file notices and locks a new one
                file.unlink()
