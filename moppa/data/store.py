"""Every image is decoded and resized once, into a uint8 array on disk; after that only the array is read.

A folder of the store holds one part of one task: `images.npy` (N, size, size, 3) uint8, `labels.npy` (N,) int64,
`names.json` and `manifest.json`. It is written under a temporary name and renamed, so it is whole or absent.
"""

import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image, UnidentifiedImageError

from moppa.data.task import PARTS, Task, digest_of_names, fingerprint_of, prove
from moppa.data.tfds import Example
from moppa.errors import UserError
from moppa.files import cannot_write
from moppa.progress import progress_bar

FORMAT = 1
INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@runtime_checkable
class Source(Protocol):
    """Where images come from: `moppa/data/tfds.py` is one."""

    lineage: str
    store: str

    def examples(self, task: Task, part: str) -> Iterator[Example]:
        """Yields the examples of train800, val200 or test, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images (N, S, S, 3) uint8, mapped from disk where they are one part, and labels (N,) int64."""

    images: np.ndarray
    labels: np.ndarray


def load(task: Task, split: str, source: Source, *, size: int, interpolation: str) -> Split:
    """The images of a split as uint8 (N, size, size, 3), prepared first where the store does not have them."""
    parts = [load_part(task, part, source, size=size, interpolation=interpolation) for part in PARTS[split]]
    if len(parts) == 1:
        return parts[0]
    return Split(
        images=np.concatenate([part.images for part in parts]), labels=np.concatenate([part.labels for part in parts])
    )


def proof(task: Task, source: Source, *, size: int, interpolation: str) -> dict[str, Any]:
    """The verdict on train800 and val200, with the fingerprints found. A wrong split raises `UserError`."""
    train800, val200 = (
        read_names(prepared(task, part, source, size=size, interpolation=interpolation))
        for part in PARTS["train800val200"]
    )
    verdict = prove(task, train800, val200)
    names_known = train800 is not None and val200 is not None
    return {"verdict": verdict, "fingerprint": fingerprint_of(train800, val200) if names_known else None}


def load_part(task: Task, part: str, source: Source, *, size: int, interpolation: str) -> Split:
    """One part from the store, checked against its manifest; prepared first where it is absent."""
    folder = prepared(task, part, source, size=size, interpolation=interpolation)
    manifest = read_json(folder / "manifest.json")
    try:
        images = np.load(folder / "images.npy", mmap_mode="r")
        labels = np.load(folder / "labels.npy")
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(folder, error) from error
    if digest(images) != manifest["images_sha256"] or digest(labels) != manifest["labels_sha256"]:
        raise UserError(f"the stored images in {folder} are not those that were prepared; delete that folder")
    return Split(images=images, labels=labels)


def read_names(folder: Path) -> list[str] | None:
    """The names of a stored part's images, or None where the source has none."""
    names = read_json(folder / "names.json")
    if names is not None and digest_of_names(names) != read_json(folder / "manifest.json")["names_sha256"]:
        raise UserError(f"the stored names in {folder} are not those that were prepared; delete that folder")
    return names


def read_json(file: Path) -> Any:
    """A JSON file of the store."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise unreadable(file.parent, error) from error


def unreadable(folder: Path, error: Exception) -> UserError:
    """A stored part that was damaged after it was written."""
    return UserError(f"the stored images in {folder} cannot be read ({error}); delete that folder")


def prepared(task: Task, part: str, source: Source, *, size: int, interpolation: str) -> Path:
    """The folder of a part, after preparing it where it is absent."""
    folder = folder_of(task, part, source, size=size, interpolation=interpolation)
    if not (folder / "manifest.json").exists():
        prepare(task, part, source, size=size, interpolation=interpolation)
    return folder


def folder_of(task: Task, part: str, source: Source, *, size: int, interpolation: str) -> Path:
    """Where a part lies; the last eight letters tell apart what the task's definition would make different."""
    definition = definition_of(task, part)
    short = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:8]
    place = Path(source.store).expanduser() / task.suite / task.name / source.lineage
    return place / f"{part}-{size}-{interpolation}-{short}"


def definition_of(task: Task, part: str) -> dict[str, Any]:
    """All of a task that decides which pixels, labels and names a part holds."""
    rule = task.label
    return {
        "format": FORMAT,
        "task": task.name,
        "task_version": task.version,
        "builder": task.builder,
        "split": task.splits[part],
        "label": getattr(getattr(rule, "func", rule), "__name__", repr(rule)),
        "label_settings": dict(getattr(rule, "keywords", {})),
        "pixel_scale": task.pixel_scale,
        "name_key": task.name_key,
    }


def prepare(task: Task, part: str, source: Source, *, size: int, interpolation: str) -> None:
    """Decodes and resizes a part into the store. Two runs at once do the work twice and keep one of the two."""
    folder = folder_of(task, part, source, size=size, interpolation=interpolation)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        write_part(temporary, task, part, source, size=size, interpolation=interpolation)
        temporary.rename(folder)
    except OSError as error:
        if not (folder / "manifest.json").exists():  # else another run was first, and its copy is as good
            raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_part(folder: Path, task: Task, part: str, source: Source, *, size: int, interpolation: str) -> None:
    """Fills `folder` with images, labels, names and, last of all, the manifest."""
    count = task.size_of(part)
    labels = np.zeros(count, dtype=np.int64)
    names: list[str | None] = [None] * count
    done, pixels_digest = 0, hashlib.sha256()

    def resized(example: Example) -> np.ndarray:
        pixel_scale = 1 if example.is_scaled else task.pixel_scale
        return resize(example.image, size=size, interpolation=interpolation, pixel_scale=pixel_scale)

    # written piece by piece, not through a map: a full disk is then an error that can be told, not a dead process
    with progress_bar() as bar, ThreadPoolExecutor(os.cpu_count()) as pool, (folder / "images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        line = bar.add_task(f"{task.name} {part} at {size} px", total=count, note="")
        examples = source.examples(task, part)
        while batch := list(islice(examples, 256)):
            if done + len(batch) > count:
                raise wrong_count(task, part, count, f"more than {count}")
            for example, pixels in zip(batch, pool.map(resized, batch), strict=True):
                check_label(task, example)
                file.write(pixels.tobytes())
                pixels_digest.update(pixels.tobytes())
                labels[done], names[done] = example.label, example.name
                done += 1
            bar.update(line, completed=done)
    if done != count:
        raise wrong_count(task, part, count, str(done))

    np.save(folder / "labels.npy", labels)
    known = [name for name in names if name is not None]
    (folder / "names.json").write_text(json.dumps(known if len(known) == count else None))
    manifest = {
        **definition_of(task, part),
        "part": part,
        "count": count,
        "size": size,
        "interpolation": interpolation,
        "lineage": source.lineage,
        "names_sha256": digest_of_names(known) if len(known) == count else None,
        "images_sha256": pixels_digest.hexdigest(),
        "labels_sha256": digest(labels),
        "versions": {"pillow": Image.__version__, "numpy": np.__version__},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True))


def resize(image: bytes | np.ndarray, *, size: int, interpolation: str, pixel_scale: int) -> np.ndarray:
    """An encoded image or a uint8 array (H, W) or (H, W, 1 or 3) as RGB uint8 (size, size, 3), never cropped."""
    try:
        picture = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else Image.fromarray(image.squeeze())
        if pixel_scale != 1:
            picture = picture.point(lambda value: min(255, value * pixel_scale))
        picture = picture.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"an image cannot be decoded ({error}); the data set is damaged: prepare it again") from error
    return np.asarray(picture.resize((size, size), INTERPOLATIONS[interpolation]))


def digest(array: np.ndarray) -> str:
    """The sha256 of an array's bytes, read in pieces so that a mapped array stays on disk."""
    rows = max(1, (1 << 24) // max(1, array[:1].nbytes))
    total = hashlib.sha256()
    for start in range(0, len(array), rows):
        total.update(np.ascontiguousarray(array[start : start + rows]))
    return total.hexdigest()


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
