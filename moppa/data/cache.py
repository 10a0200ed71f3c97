"""Loads the splits of a task from the cache, where each image is decoded and resized once, as a uint8 array on disk."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from moppa.data.images import ImageFormat
from moppa.data.prepare import ensure_prepared
from moppa.data.source import Source
from moppa.data.split import Split, read_split, start_hashing
from moppa.data.task import BASE_SPLITS, Task


def prepare_splits(task: Task, splits: tuple[str, ...], source: Source, image_format: ImageFormat) -> dict[str, Path]:
    """Returns the cached folder of each of train800, val200 and test that make up `splits`, after preparing them."""
    bases = dict.fromkeys(base for split in splits for base in BASE_SPLITS[split])
    return {base: ensure_prepared(task, base, source, image_format) for base in bases}


def load_split(task: Task, split: str, source: Source, image_format: ImageFormat) -> Split:
    """Returns the images of a split as uint8 (N, size, size, 3), after preparing those that are not in the cache.

    Raises:
        UserError: if the cached images are damaged, were changed, or belong to another version of the task.
    """
    return load_folders(task, split, prepare_splits(task, (split,), source, image_format))


def load_folders(task: Task, split: str, folders: Mapping[str, Path]) -> Split:
    """Returns the images of a split as uint8 (N, size, size, 3) from its folders in the cache.

    Raises:
        UserError: if they are damaged, were changed, or belong to another version of the task.
    """
    loaded = [read_split(folders[base], task, base) for base in BASE_SPLITS[split]]
    if len(loaded) == 1:
        return loaded[0]
    return Split(
        images=np.concatenate([base.images for base in loaded]),
        labels=np.concatenate([base.labels for base in loaded]),
        digest=hashlib.sha256("".join(base.digest for base in loaded).encode()).hexdigest(),
    )


def start_reading(split: str, folders: Mapping[str, Path]) -> None:
    """Starts to read and check the cached images of a split in the background; `load_folders` waits for the rest."""
    for base in BASE_SPLITS[split]:
        with suppress(OSError):  # reported when it is loaded
            start_hashing(folders[base])
