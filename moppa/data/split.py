"""Reads one cached split: the folder it lies in, the definition it must have, and the check that it is intact.

A folder holds `images.npy` (N, size, size, 3) uint8, `labels.npy` (N,) int64, `decoded.npy` (N, 32) uint8 with the
sha256 of each image before it was resized, `names.json` and `manifest.json`.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from moppa.data.images import ImageFormat, hash_array, hash_images
from moppa.data.source import Source, content_of
from moppa.data.task import SplitCheck, Task, hash_names, proves_start_only, split_fingerprint, start_fingerprint
from moppa.utils.errors import UserError
from moppa.utils.paths import user_path

FORMAT = 3
REQUIRED = ("images_sha256", "labels_sha256", "names_sha256", "decoded_sha256", "count")  # of a manifest


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images (N, S, S, 3) uint8, memory-mapped if they come from one file, labels (N,) int64, digest of the images."""

    images: np.ndarray
    labels: np.ndarray
    digest: str


def split_folder(task: Task, split: str, source: Source, image_format: ImageFormat) -> Path:
    """Returns the folder of a cached split. Its name ends with digits of the sha256 of the split's definition.

    If the source reads files of the user, digits of the sha256 of their content follow.
    """
    definition = json.dumps(split_definition(task, split), sort_keys=True)
    suffix = hashlib.sha256(definition.encode()).hexdigest()[:8]
    content = content_of(task, split, source)
    name = f"{split}-{image_format.size}-{image_format.interpolation}-{suffix}"
    return task_folder(task, source.cache) / source.lineage / (f"{name}-{content[:16]}" if content else name)


def memory_file(task: Task, split: str, cache: str, lineage: str, root: Path) -> Path:
    """Returns the file that remembers the digests of a split's source files below `root`."""
    place = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:8]
    return task_folder(task, cache) / lineage / f"{split}-files-{place}.json"


def task_folder(task: Task, cache: str) -> Path:
    """Returns the folder with all cached splits of a task. It has one subfolder per lineage."""
    return user_path(cache) / task.suite / task.name


def split_definition(task: Task, split: str) -> dict[str, Any]:
    """Returns everything about a task that decides which pixels, labels and names a split holds."""
    label = task.label
    return {
        "format": FORMAT,
        "task": task.name,
        "task_version": task.version,
        "builder": task.builder,
        "split": task.splits[split],
        "label": getattr(getattr(label, "func", label), "__name__", repr(label)),
        "label_settings": dict(getattr(label, "keywords", {})),
        "pixel_scale": task.pixel_scale,
        "name_key": task.name_key,
    }


def check_names(task: Task, split: str, names: Sequence[str] | None) -> SplitCheck | None:
    """Returns whether the names of train800 or val200 alone fit the task's fingerprint; None for the test set."""
    if split == "test":
        return None
    if task.fingerprint is None or names is None:
        return "no names"
    digests = {name: digest for name, digest in split_fingerprint(names, names).items() if name.startswith(split)}
    digests |= {name: digest for name, digest in start_fingerprint(names, names).items() if split[-3:] in name}
    is_official = all(task.fingerprint.get(name, digest) == digest for name, digest in digests.items())
    return ("official start" if proves_start_only(task) else "official") if is_official else "differs"


def read_split(folder: Path, task: Task, split: str) -> Split:
    """Returns the images and labels in a folder of the cache.

    Raises:
        UserError: if they belong to another version of the task, are damaged, or were changed.
    """
    manifest = read_manifest(folder, task, split)
    try:
        images = np.load(folder / "images.npy", mmap_mode="r")
        labels = np.load(folder / "labels.npy")
        images_sha256 = start_hashing(folder).result()
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(folder, error) from error
    if images_sha256 != manifest["images_sha256"] or hash_array(labels).hex() != manifest["labels_sha256"]:
        raise UserError(f"the cached images in {folder} are not those that were prepared; delete that folder")
    return Split(images=images, labels=labels, digest=images_sha256)


DIGESTS: dict[tuple[Path, int, int], Future[str]] = {}  # by path, modification time and length


def start_hashing(folder: Path) -> Future[str]:
    """Returns the digest of the images in a folder as a future. A thread computes it once per process."""
    file = folder / "images.npy"
    key = file, file.stat().st_mtime_ns, file.stat().st_size
    if key not in DIGESTS or (DIGESTS[key].done() and DIGESTS[key].exception()):
        DIGESTS[key] = Future()
        Thread(target=hash_into, args=(DIGESTS[key], file), daemon=True).start()  # the process may end before it does
    return DIGESTS[key]


def hash_into(future: Future[str], file: Path) -> None:
    """Sets the result of `future` to the digest of the images in `file`, or its exception."""
    try:
        future.set_result(hash_images(np.load(file, mmap_mode="r")))
    except Exception as error:  # raised again by `future.result()`
        future.set_exception(error)


def read_manifest(folder: Path, task: Task, split: str) -> dict[str, Any]:
    """Returns the manifest in a folder of the cache.

    Raises:
        UserError: if it is incomplete or describes another version of the task.
    """
    manifest = read_json(folder / "manifest.json")
    if not isinstance(manifest, dict) or not set(REQUIRED) <= set(manifest):
        raise unreadable(folder, ValueError("its manifest.json is incomplete"))
    expected = {**split_definition(task, split), "count": task.num_images(split)}
    for name, value in expected.items():
        if manifest.get(name) != value:
            raise UserError(
                f"the cached images in {folder} are of another version of the task: {name} was "
                f"{manifest.get(name)!r} and is {value!r}; delete that folder, and they are prepared again"
            )
    return manifest


def read_names(folder: Path, task: Task, split: str) -> list[str] | None:
    """Returns the names of the images in a folder of the cache, or None if the source has none."""
    manifest, names = read_manifest(folder, task, split), read_json(folder / "names.json")
    if (names and hash_names(names)) != manifest["names_sha256"]:
        raise UserError(f"the cached names in {folder} are not those that were prepared; delete that folder")
    return names


def read_decoded(folder: Path, task: Task, split: str) -> np.ndarray:
    """Returns the sha256 of each image in a folder of the cache before it was resized, (N, 32) uint8."""
    manifest = read_manifest(folder, task, split)
    try:
        decoded = np.load(folder / "decoded.npy")
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(folder, error) from error
    if hash_decoded(decoded) != manifest["decoded_sha256"]:
        raise UserError(f"the digests in {folder} are not those that were prepared; delete that folder")
    return decoded


def hash_decoded(decoded: np.ndarray) -> str:
    """Returns one sha256 for the digests (N, 32) of the images of a split, in any order."""
    return hash_names(sorted(digest.tobytes().hex() for digest in decoded))


def read_json(file: Path) -> Any:
    """Returns the content of a JSON file of the cache."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(file.parent, error) from error


def unreadable(folder: Path, error: Exception) -> UserError:
    """Returns the error for a cached split that was damaged after it was written."""
    return UserError(f"the cached images in {folder} cannot be read ({error}); delete that folder")
