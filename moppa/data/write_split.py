"""Decodes, resizes and writes the images of a split, with several threads and a journal to resume from."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from moppa.data.decode import decode
from moppa.data.images import ImageFormat, hash_array, hash_picture, resize_rgb
from moppa.data.journal import Progress, append_chunk, resume_journal, write_chunk
from moppa.data.source import Example, Source, SourceWithOrigin, chunked, content_of
from moppa.data.split import check_names, hash_decoded, split_definition
from moppa.data.task import Task, hash_names
from moppa.utils.errors import UserError
from moppa.utils.progress import progress_bar
from moppa.utils.provenance import version_of

CHUNK_BYTES = 3 << 20  # small enough to be hashed and written while it is in the processor's cache
MAX_CHUNK_IMAGES = 64
NUM_THREADS = max(2, os.cpu_count() or 1)  # more threads than cores would only wait for the interpreter
MAX_PENDING_CHUNKS = 4 * NUM_THREADS

Chunk = list[Example]


class Digests(NamedTuple):
    """The sha256 of each image of a chunk, resized and decoded."""

    resized: list[bytes]
    decoded: list[bytes]


def write_split(folder: Path, task: Task, split: str, source: Source, image_format: ImageFormat) -> None:
    """Writes images, labels, names, digests and, last of all, the manifest of a split to `folder`.

    Resumes from the journal in `folder` if there is one.
    """
    facts = split_facts(task, split, source, image_format)
    folder.mkdir(exist_ok=True)
    progress = write_images(folder, task, split, source, image_format, facts)

    labels = np.array(progress.labels, dtype=np.int64)
    np.save(folder / "labels.npy", labels)
    decoded = np.frombuffer(bytes.fromhex("".join(progress.decoded)), dtype=np.uint8).reshape(-1, 32)
    np.save(folder / "decoded.npy", decoded)
    known_names = [name for name in progress.names if name is not None]
    names = known_names if len(known_names) == progress.num_images else None
    (folder / "names.json").write_text(json.dumps(names))
    manifest = {
        **facts,
        "split_check": check_names(task, split, names),
        "names_sha256": None if names is None else hash_names(names),
        "images_sha256": progress.digest.hexdigest(),
        "labels_sha256": hash_array(labels).hex(),
        "decoded_sha256": hash_decoded(decoded),
    }
    (folder / "journal.jsonl").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True))


def split_facts(task: Task, split: str, source: Source, image_format: ImageFormat) -> dict[str, Any]:
    """Returns the part of the manifest that is known in advance. An interrupted run with other facts starts anew."""
    return {
        **split_definition(task, split),
        "base_split": split,
        "count": task.num_images(split),
        "size": image_format.size,
        "interpolation": image_format.interpolation,
        "lineage": source.lineage,
        "origin": source.origin(task) if isinstance(source, SourceWithOrigin) else None,
        "content": content_of(task, split, source),
        "versions": {
            "pillow": Image.__version__,
            "numpy": np.__version__,
            "tensorflow-datasets": version_of("tensorflow-datasets"),
        },
    }


def write_images(
    folder: Path, task: Task, split: str, source: Source, image_format: ImageFormat, facts: dict[str, Any]
) -> Progress:
    """Resizes and writes all images that the journal does not vouch for yet.

    Raises:
        UserError: if an image cannot be decoded, or if the source has another number of images than the task, or a
            label outside of its classes.
    """
    file, num_images = folder / "images.npy", task.num_images(split)
    chunk_images = min(MAX_CHUNK_IMAGES, max(1, CHUNK_BYTES // image_format.image_bytes))

    def resize_and_write(first: int, chunk: Chunk) -> Digests:
        decoded, images = [], []
        for index, example in enumerate(chunk, start=first):
            picture = decode(example, f"{index} of {split} of task {task.name}", pixel_scale=task.pixel_scale)
            decoded.append(hash_picture(picture))
            images.append(resize_rgb(picture, image_format))
        return Digests(write_chunk(file, progress.offset + first * image_format.image_bytes, images), decoded)

    # Not through a memory map: a full disk then raises an error and does not kill the process.
    with file.open("r+b" if file.exists() else "w+b") as array, (folder / "journal.jsonl").open("a+") as journal:
        progress = resume_journal(array, journal, facts)
        remaining = islice(source.examples(task, split), progress.num_images, None)
        examples = chain(list(islice(remaining, 1)), remaining)  # a source may first download, under its own bar
        with progress_bar() as bar, ThreadPoolExecutor(NUM_THREADS) as pool:
            description = f"{task.name} {split} at {image_format.size} px"
            line = bar.add_task(description, total=num_images, completed=progress.num_images, note="")
            chunks = chunked(examples, chunk_images)
            for chunk, digests in map_in_order(pool, resize_and_write, chunks, first=progress.num_images):
                if progress.num_images + len(chunk) > num_images:
                    raise wrong_count(task, split, f"more than {num_images}")
                check_labels(task, chunk)
                append_chunk(journal, progress, chunk, digests.resized, digests.decoded)
                bar.update(line, completed=progress.num_images)
    if progress.num_images != num_images:
        raise wrong_count(task, split, str(progress.num_images))
    return progress


def map_in_order(
    pool: ThreadPoolExecutor, write: Callable[[int, Chunk], Digests], chunks: Iterator[Chunk], *, first: int
) -> Iterator[tuple[Chunk, Digests]]:
    """Yields each chunk with the result of `write(index of its first image, chunk)`, in order; the pool works ahead."""
    pending: deque[tuple[Chunk, Future[Digests]]] = deque()
    for chunk in chunks:
        pending.append((chunk, pool.submit(write, first, chunk)))
        first += len(chunk)
        # yield what is done at once, so that it enters the journal even if the source is slow
        if pending[0][1].done() or len(pending) == MAX_PENDING_CHUNKS:
            oldest, digests = pending.popleft()
            yield oldest, digests.result()
    for oldest, digests in pending:
        yield oldest, digests.result()


def check_labels(task: Task, examples: Sequence[Example]) -> None:
    """Raises `UserError` if a label is outside of the task's classes."""
    for example in examples:
        if not 0 <= example.label < task.num_classes:
            raise UserError(
                f"task {task.name}: image {example.name or '(unnamed)'} has label {example.label}, but "
                f"task.num_classes={task.num_classes}; correct task.num_classes or task.label"
            )


def wrong_count(task: Task, split: str, actual: str) -> UserError:
    """Returns the error for a data set that is not the one that the task describes."""
    return UserError(
        f"task {task.name}: {split} ({task.builder}, {task.splits[split]}) holds {actual} images, the task's "
        f"definition says {task.num_images(split)}; the data set is incomplete or of another version: prepare it again"
    )
