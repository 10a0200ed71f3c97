"""Loads the splits of a task from the cache, where each image is decoded and resized once, as a uint8 array on disk."""

import hashlib
from contextlib import suppress
from typing import Any

import numpy as np

from moppa.data.images import ImageFormat
from moppa.data.prepare import ensure_prepared
from moppa.data.source import Source
from moppa.data.split import Split, read_names, read_split, split_folder, start_hashing
from moppa.data.task import BASE_SPLITS, Task, check_split, split_fingerprint


def load_split(task: Task, split: str, source: Source, image_format: ImageFormat) -> Split:
    """Returns the images of a split as uint8 (N, size, size, 3), after preparing those that are not in the cache.

    Raises:
        UserError: if the cached images are damaged, were changed, or belong to another version of the task.
    """
    loaded = [read_split(ensure_prepared(task, base, source, image_format), task, base) for base in BASE_SPLITS[split]]
    if len(loaded) == 1:
        return loaded[0]
    return Split(
        images=np.concatenate([base.images for base in loaded]),
        labels=np.concatenate([base.labels for base in loaded]),
        digest=hashlib.sha256("".join(base.digest for base in loaded).encode()).hexdigest(),
    )


def start_reading(task: Task, split: str, source: Source, image_format: ImageFormat) -> None:
    """Starts to read and check the cached images of a split in the background; `load_split` waits for the rest."""
    for base in BASE_SPLITS[split]:
        with suppress(OSError):  # not in the cache: `load_split` prepares it
            start_hashing(split_folder(task, base, source, image_format))


def split_check(task: Task, source: Source, image_format: ImageFormat) -> dict[str, Any]:
    """Returns the check of train800 and val200 as `verdict`, and their `fingerprint` (None if they have no names).

    Raises:
        UserError: if the names differ from the task's fingerprint.
    """
    train800, val200 = (
        read_names(ensure_prepared(task, base, source, image_format), task, base)
        for base in BASE_SPLITS["train800val200"]
    )
    verdict = check_split(task, train800, val200)
    if train800 is None or val200 is None:
        return {"verdict": verdict, "fingerprint": None}
    return {"verdict": verdict, "fingerprint": split_fingerprint(train800, val200)}
