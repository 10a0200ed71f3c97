"""One part of one task in the store: where it lies, what it must hold, and that it holds it.

A folder holds `images.npy` (N, size, size, 3) uint8, `labels.npy` (N,) int64, `names.json` and `manifest.json`.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, runtime_checkable

import numpy as np

from moppa.data.images import hash_array, hash_images
from moppa.data.task import SplitCheck, Task, hash_names, split_fingerprint
from moppa.data.tfds import Example
from moppa.utils.errors import UserError

FORMAT = 2
COUNTED = ("images_sha256", "labels_sha256", "names_sha256", "count")


@runtime_checkable
class Source(Protocol):
    """Where images come from: `moppa/data/tfds.py` is one."""

    lineage: str
    cache: str

    def examples(self, task: Task, part: str) -> Iterator[Example]:
        """Yields the examples of train800, val200 or test, in order."""
        ...


@runtime_checkable
class Traceable(Protocol):
    """A source that can say which data set it reads, by the full name and version that its makers gave it."""

    def origin(self, task: Task) -> str:
        """For example `eurosat/rgb/2.0.0`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images (N, S, S, 3) uint8, mapped from disk where they are one part, labels (N,) int64, the images' digest."""

    images: np.ndarray
    labels: np.ndarray
    digest: str


def split_folder(task: Task, part: str, source: Source, *, size: int, interpolation: str) -> Path:
    """Where a part lies; the last eight letters tell apart what the task's definition would make different."""
    short = hashlib.sha256(json.dumps(split_definition(task, part), sort_keys=True).encode()).hexdigest()[:8]
    return task_folder(task, source.cache) / source.lineage / f"{part}-{size}-{interpolation}-{short}"


def task_folder(task: Task, store: str) -> Path:
    """Where all of a task lies, one folder a lineage."""
    return Path(store).expanduser() / task.suite / task.name


def split_definition(task: Task, part: str) -> dict[str, Any]:
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


def check_names(task: Task, part: str, names: Sequence[str] | None) -> SplitCheck | None:
    """What a training part's names alone say of it, by the task's fingerprint; None for the test set."""
    if part == "test":
        return None
    if task.fingerprint is None or names is None:
        return "no names"
    found = {name: value for name, value in split_fingerprint(names, names).items() if name.startswith(part)}
    same = all(task.fingerprint.get(name, value) == value for name, value in found.items())
    return "official" if same else "differs"


def read_split(folder: Path, task: Task, part: str) -> Split:
    """The images and labels of a folder of the store.

    Raises:
        UserError: where they are of another version of the task, damaged, or not those that were prepared.
    """
    manifest = read_manifest(folder, task, part)
    try:
        images = np.load(folder / "images.npy", mmap_mode="r")
        labels = np.load(folder / "labels.npy")
        found = images_sha256(folder).result()
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(folder, error) from error
    if found != manifest["images_sha256"] or hash_array(labels).hex() != manifest["labels_sha256"]:
        raise UserError(f"the stored images in {folder} are not those that were prepared; delete that folder")
    return Split(images=images, labels=labels, digest=manifest["images_sha256"])


BEGUN: dict[tuple[Path, int, int], Future[str]] = {}  # by file, age and length


def images_sha256(folder: Path) -> Future[str]:
    """The digest of a folder's images, which a thread has been making since the first call: once a process."""
    file = folder / "images.npy"
    of = file, file.stat().st_mtime_ns, file.stat().st_size
    if of not in BEGUN or (BEGUN[of].done() and BEGUN[of].exception()):
        BEGUN[of] = Future()
        Thread(target=fulfill, args=(BEGUN[of], file), daemon=True).start()  # a process that ends does not wait for it
    return BEGUN[of]


def fulfill(promised: Future[str], file: Path) -> None:
    """Makes the digest of stored images, or says why there is none."""
    try:
        promised.set_result(hash_images(np.load(file, mmap_mode="r")))
    except Exception as error:  # who asks is told
        promised.set_exception(error)


def read_manifest(folder: Path, task: Task, part: str) -> dict[str, Any]:
    """What a folder of the store says of itself, where it is what the task asks for today."""
    manifest = read_json(folder / "manifest.json")
    if not isinstance(manifest, dict) or not set(COUNTED) <= set(manifest):
        raise unreadable(folder, ValueError("its manifest.json is incomplete"))
    asked = {**split_definition(task, part), "count": task.size_of(part)}
    for name, value in asked.items():
        if manifest.get(name) != value:
            raise UserError(
                f"the stored images in {folder} are of another version of the task: {name} was "
                f"{manifest.get(name)!r} and is {value!r}; delete that folder, and they are prepared again"
            )
    return manifest


def read_names(folder: Path, task: Task, part: str) -> list[str] | None:
    """The names of a stored part's images, or None where the source has none."""
    manifest, names = read_manifest(folder, task, part), read_json(folder / "names.json")
    if (names and hash_names(names)) != manifest["names_sha256"]:
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
