"""Writes the images of any source as JPEG in NOAH's folder layout, to measure what that lineage costs."""

import os
import shutil
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from moppa.data.decode import decode
from moppa.data.noah import JOINED, list_file
from moppa.data.source import Example, Source, chunked
from moppa.data.task import BASE_SPLITS, Task
from moppa.utils.atomic import write_error
from moppa.utils.errors import UserError
from moppa.utils.progress import progress_bar

ENCODING = {"format": "JPEG", "quality": 75, "subsampling": "4:2:0"}
BATCH_SIZE = 256  # images in memory at once


def write_folder(folder: Path, task: Task, source: Source, splits: Sequence[str]) -> None:
    """Writes the images and lists of `splits` to `folder`, with train800val200 if both of its splits are there.

    Raises:
        UserError: if `folder` exists, the source cannot provide the images, or the disk cannot be written.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already; delete it, or choose another folder with --out")
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        for split in splits:
            write_images(temporary, task, source, split)
        if set(BASE_SPLITS[JOINED]) <= set(splits):
            write_joined(temporary)
        temporary.rename(folder)
    except OSError as error:
        raise write_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_images(folder: Path, task: Task, source: Source, split: str) -> None:
    """Writes the images of a split as `images/SPLIT/000000.jpg` and so on, and its list."""
    (folder / "images" / split).mkdir(parents=True)
    examples = source.examples(task, split)
    lines: list[str] = []
    with progress_bar() as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        progress = bar.add_task(f"{task.name} {split} as JPEG", total=task.num_images(split), note="")
        for batch in chunked(examples, BATCH_SIZE):
            paths = [f"images/{split}/{len(lines) + index:06d}.jpg" for index in range(len(batch))]
            # list() raises the errors of the threads
            list(pool.map(lambda example, path: encode(example, folder / path, task.pixel_scale), batch, paths))
            lines += [f"{path} {example.label}" for path, example in zip(paths, batch, strict=True)]
            bar.update(progress, completed=len(lines))
    if len(lines) != task.num_images(split):
        raise UserError(
            f"task {task.name}: {split} holds {len(lines)} images, the task's definition says "
            f"{task.num_images(split)}; prepare the data set again"
        )
    list_file(folder, split).write_text("\n".join(lines) + "\n", encoding="utf-8")


def encode(example: Example, path: Path, pixel_scale: int) -> None:
    """Writes an example as JPEG at its own size."""
    # as RGB, because a gray JPEG has no chroma channels to subsample
    decode(example, path.stem, pixel_scale=pixel_scale).save(path, **ENCODING)


def write_joined(folder: Path) -> None:
    """Writes train800val200 as copies of the files of train800, then of val200."""
    (folder / "images" / JOINED).mkdir()
    lines = []
    for split in BASE_SPLITS[JOINED]:
        for line in list_file(folder, split).read_text(encoding="utf-8").splitlines():
            path, _, label = line.rpartition(" ")
            copy = f"images/{JOINED}/{len(lines):06d}.jpg"
            shutil.copyfile(folder / path, folder / copy)
            lines.append(f"{copy} {label}")
    list_file(folder, JOINED).write_text("\n".join(lines) + "\n", encoding="utf-8")
