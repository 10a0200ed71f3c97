"""Any source's images written as NOAH's folders hold them, so that one can measure what that lineage costs."""

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from PIL import UnidentifiedImageError

from moppa.data.cache import Source
from moppa.data.images import to_rgb
from moppa.data.noah import JOINED, list_file
from moppa.data.task import BASE_SPLITS, Task
from moppa.data.tfds import Example
from moppa.utils.atomic import write_error
from moppa.utils.errors import UserError
from moppa.utils.progress import progress_bar

ENCODING = {"format": "JPEG", "quality": 75, "subsampling": "4:2:0"}
BATCH = 256


def write_folder(folder: Path, task: Task, source: Source, parts: Sequence[str]) -> None:
    """Afterwards `folder` holds the images and lists of `parts`, complete, with train800val200 where it has both.

    Raises:
        UserError: where `folder` exists, the source cannot give the images, or the disk says no.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already; delete it, or choose another folder with --out")
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        for part in parts:
            write_part(temporary, task, source, part)
        if set(BASE_SPLITS[JOINED]) <= set(parts):
            join(temporary)
        temporary.rename(folder)
    except OSError as error:
        raise write_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_part(folder: Path, task: Task, source: Source, part: str) -> None:
    """Writes `images/PART/000000.jpg` and on, and the part's list."""
    (folder / "images" / part).mkdir(parents=True)
    examples = source.examples(task, part)
    lines: list[str] = []
    with progress_bar() as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        line = bar.add_task(f"{task.name} {part} as JPEG", total=task.size_of(part), note="")
        for batch in batches(examples):
            paths = [f"images/{part}/{len(lines) + index:06d}.jpg" for index in range(len(batch))]
            # list: an error in a thread is raised here
            list(pool.map(lambda example, path: encode(example, folder / path, task.pixel_scale), batch, paths))
            lines += [f"{path} {example.label}" for path, example in zip(paths, batch, strict=True)]
            bar.update(line, completed=len(lines))
    if len(lines) != task.size_of(part):
        raise UserError(
            f"task {task.name}: {part} holds {len(lines)} images, the task's definition says {task.size_of(part)}; "
            f"prepare the data set again"
        )
    list_file(folder, part).write_text("\n".join(lines) + "\n", encoding="utf-8")


def batches(examples: Iterator[Example]) -> Iterator[list[Example]]:
    """The examples some at a time, so that memory holds no more of them."""
    while batch := list(islice(examples, BATCH)):
        yield batch


def encode(example: Example, path: Path, pixel_scale: int) -> None:
    """Writes an example at its own size."""
    try:
        # in color, since a gray JPEG has no chroma to halve
        picture = to_rgb(example.image, 1 if example.is_scaled else pixel_scale)
    except UnidentifiedImageError as error:
        raise UserError(
            f"image {example.name or path.name} cannot be decoded; the data set is damaged: prepare it again"
        ) from error
    picture.save(path, **ENCODING)


def join(folder: Path) -> None:
    """Writes train800val200 as copies of the two parts' files, train800 first."""
    (folder / "images" / JOINED).mkdir()
    joined = []
    for part in BASE_SPLITS[JOINED]:
        for line in list_file(folder, part).read_text(encoding="utf-8").splitlines():
            path, _, label = line.rpartition(" ")
            copy = f"images/{JOINED}/{len(joined):06d}.jpg"
            shutil.copyfile(folder / path, folder / copy)
            joined.append(f"{copy} {label}")
    list_file(folder, JOINED).write_text("\n".join(joined) + "\n", encoding="utf-8")
