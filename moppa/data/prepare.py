"""A part of a task is decoded and resized into the store, once: whole or absent, and a killed run goes on.

While it is made it lies in a hidden folder beside its place, held by a lock; `journal.jsonl` there has one line for
every chunk that is written, with the sha256 of all pixels so far. What the journal does not prove is made again.
"""

import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from moppa.data.disk_space import check_free_space, split_bytes
from moppa.data.images import hash_array, resize
from moppa.data.journal import Journaled, append_chunk, recover_journal, start_journal, write_chunk
from moppa.data.split import Source, Traceable, check_names, split_definition, split_folder
from moppa.data.task import Task, hash_names
from moppa.data.tfds import Example
from moppa.utils.atomic import write_error
from moppa.utils.errors import UserError
from moppa.utils.progress import progress_bar

CHUNK_BYTES = 3 << 20  # small enough to be hashed and written while it is in the processor's cache
MAX_CHUNK = 64
NUM_THREADS = max(2, os.cpu_count() or 1)  # more than cores only wait for one another at the interpreter
NUM_AHEAD = 4 * NUM_THREADS  # chunks


def ensure_prepared(task: Task, part: str, source: Source, *, size: int, interpolation: str) -> Path:
    """The folder of a part, after preparing it where it is absent."""
    folder = split_folder(task, part, source, size=size, interpolation=interpolation)
    if not (folder / "manifest.json").exists():
        prepare(task, part, source, size=size, interpolation=interpolation)
    return folder


def prepare(task: Task, part: str, source: Source, *, size: int, interpolation: str) -> None:
    """Decodes and resizes a part into the store, going on where a killed run stopped. Of two runs at once, one waits.

    Raises:
        UserError: where the disk is too small or the images are not those that the task describes; nothing is left.
    """
    folder = split_folder(task, part, source, size=size, interpolation=interpolation)
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        with preparation_lock(folder):
            if (folder / "manifest.json").exists():  # another run was first, and its copy is as good
                return
            already = sum(file.stat().st_size for file in temporary.glob("*"))
            check_free_space(
                f"task {task.name}: {part} at {size} px", split_bytes(task, part, size=size) - already, folder
            )
            try:
                write_split(temporary, task, part, source, size=size, interpolation=interpolation)
            except (UserError, OSError):
                shutil.rmtree(temporary, ignore_errors=True)  # it would fail again
                raise
            temporary.rename(folder)
    except OSError as error:
        raise write_error(folder, error) from error


@contextmanager
def preparation_lock(folder: Path) -> Iterator[None]:
    """No other process is at work on `folder` meanwhile; one that died holds nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another run prepares {folder}: waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()  # while held: who waits on the old file sees that it is gone, and asks anew
        lock.release()


def write_split(folder: Path, task: Task, part: str, source: Source, *, size: int, interpolation: str) -> None:
    """Fills `folder` with images, labels, names and, last of all, the manifest."""
    facts = {
        **split_definition(task, part),
        "part": part,
        "count": task.size_of(part),
        "size": size,
        "interpolation": interpolation,
        "lineage": source.lineage,
        "read": source.origin(task) if isinstance(source, Traceable) else None,
        "versions": {
            "pillow": Image.__version__,
            "numpy": np.__version__,
            "tensorflow-datasets": version("tensorflow-datasets"),
        },
    }
    folder.mkdir(exist_ok=True)
    mode = "r+b" if (folder / "images.npy").exists() else "w+b"
    # written piece by piece, not through a map: a full disk is then an error that can be told, not a dead process
    with (folder / "images.npy").open(mode) as images, (folder / "journal.jsonl").open("a+") as journal:
        progress = recover_journal(images, journal, facts)
        if not progress.done:
            progress = start_journal(images, journal, facts)
        add_chunks(folder / "images.npy", journal, progress, task, part, source, facts)

    labels = np.array(progress.labels, dtype=np.int64)
    np.save(folder / "labels.npy", labels)
    known = [name for name in progress.names if name is not None]
    names = known if len(known) == progress.done else None
    (folder / "names.json").write_text(json.dumps(names))
    manifest = {
        **facts,
        "verdict": check_names(task, part, names),
        "names_sha256": None if names is None else hash_names(names),
        "images_sha256": progress.pixels.hexdigest(),
        "labels_sha256": hash_array(labels).hex(),
    }
    (folder / "journal.jsonl").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True))


def add_chunks(
    images: Path, journal: TextIO, progress: Journaled, task: Task, part: str, source: Source, facts: dict[str, Any]
) -> None:
    """Resizes and writes all images that are not done, several chunks at a time, and vouches for them in order."""
    count, size = facts["count"], facts["size"]
    left = islice(source.examples(task, part), progress.done, None)
    examples = chain(list(islice(left, 1)), left)  # a source that has to be fetched shows a bar of its own, before ours

    def stored(first: int, chunk: list[Example]) -> list[bytes]:
        scales = [1 if example.is_scaled else task.pixel_scale for example in chunk]
        pixels = [
            resize(example.image, size=size, interpolation=facts["interpolation"], pixel_scale=scale)
            for example, scale in zip(chunk, scales, strict=True)
        ]
        return write_chunk(images, progress.offset + first * 3 * size**2, pixels)

    with progress_bar() as bar, ThreadPoolExecutor(NUM_THREADS) as pool:
        line = bar.add_task(f"{task.name} {part} at {size} px", total=count, completed=progress.done, note="")
        per_chunk = min(MAX_CHUNK, max(1, CHUNK_BYTES // (3 * size**2)))
        for chunk, digests in in_order(pool, stored, examples, first=progress.done, per_chunk=per_chunk):
            if progress.done + len(chunk) > count:
                raise wrong_count(task, part, count, f"more than {count}")
            for example in chunk:
                check_label(task, example)
            append_chunk(
                journal,
                progress,
                digests=digests,
                labels=[int(example.label) for example in chunk],
                names=[example.name for example in chunk],
            )
            bar.update(line, completed=progress.done)
    if progress.done != count:
        raise wrong_count(task, part, count, str(progress.done))


def in_order(
    pool: ThreadPoolExecutor,
    stored: Callable[[int, list[Example]], list[bytes]],
    examples: Iterator[Example],
    *,
    first: int,
    per_chunk: int,
) -> Iterator[tuple[list[Example], list[bytes]]]:
    """Yields chunks of examples, which are numbered from `first`, with what `stored` gives; the pool works ahead."""
    waiting: deque[tuple[list[Example], Future[list[bytes]]]] = deque()
    while chunk := list(islice(examples, per_chunk)):
        waiting.append((chunk, pool.submit(stored, first, chunk)))
        first += len(chunk)
        if waiting[0][1].done() or len(waiting) == NUM_AHEAD:  # what is done is vouched for, however slow the source
            done, digests = waiting.popleft()
            yield done, digests.result()
    for done, digests in waiting:
        yield done, digests.result()


def check_label(task: Task, example: Example) -> None:
    """A label outside the task's classes would train on nonsense."""
    if not 0 <= example.label < task.num_classes:
        raise UserError(
            f"task {task.name}: image {example.name or '(unnamed)'} has label {example.label}, but task.num_classes="
            f"{task.num_classes}; correct task.num_classes or task.label"
        )


def wrong_count(task: Task, part: str, expected: int, found: str) -> UserError:
    """The data set is not the one that the task describes."""
    return UserError(
        f"task {task.name}: {part} ({task.builder}, {task.splits[part]}) holds {found} images, the task's definition "
        f"says {expected}; the data set is incomplete or of another version: prepare it again"
    )
