"""Every image is decoded and resized once, into a uint8 array on disk; after that only the array is read."""

import hashlib
from contextlib import suppress
from typing import Any

import numpy as np

from moppa.data.prepare import ensure_prepared
from moppa.data.split import Source, Split, images_sha256, read_names, read_split, split_folder
from moppa.data.task import BASE_SPLITS, Task, check_split, split_fingerprint


def load_split(task: Task, split: str, source: Source, *, size: int, interpolation: str) -> Split:
    """The images of a split as uint8 (N, size, size, 3), prepared first where the store does not have them.

    Raises:
        UserError: where what is stored is damaged, was changed, or is of another version of the task.
    """
    parts = [
        read_split(ensure_prepared(task, part, source, size=size, interpolation=interpolation), task, part)
        for part in BASE_SPLITS[split]
    ]
    if len(parts) == 1:
        return parts[0]
    return Split(
        images=np.concatenate([part.images for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        digest=hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest(),
    )


def start_reading(task: Task, split: str, source: Source, *, size: int, interpolation: str) -> None:
    """What is stored of a split is read and checked from now on, beside all else; `load` waits for the rest of it."""
    for part in BASE_SPLITS[split]:
        with suppress(OSError):  # what is not there is prepared by `load`
            images_sha256(split_folder(task, part, source, size=size, interpolation=interpolation))


def split_check(task: Task, source: Source, *, size: int, interpolation: str) -> dict[str, Any]:
    """The verdict on train800 and val200, with the fingerprints found. A wrong split raises `UserError`."""
    train800, val200 = (
        read_names(ensure_prepared(task, part, source, size=size, interpolation=interpolation), task, part)
        for part in BASE_SPLITS["train800val200"]
    )
    verdict = check_split(task, train800, val200)
    names_known = train800 is not None and val200 is not None
    return {"verdict": verdict, "fingerprint": split_fingerprint(train800, val200) if names_known else None}
