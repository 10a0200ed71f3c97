"""Every image is decoded and resized once, into a uint8 array on disk; after that only the array is read."""

import hashlib
from contextlib import suppress
from typing import Any

import numpy as np

from moppa.data.part import Source, Split, folder_of, images_sha256, read_names, read_part
from moppa.data.prepare import prepare, prepared
from moppa.data.task import PARTS, Task, fingerprint_of, prove

__all__ = ["Source", "Split", "begin", "folder_of", "load", "prepare", "prepared", "proof"]


def load(task: Task, split: str, source: Source, *, size: int, interpolation: str) -> Split:
    """The images of a split as uint8 (N, size, size, 3), prepared first where the store does not have them.

    Raises:
        UserError: where what is stored is damaged, was changed, or is of another version of the task.
    """
    parts = [
        read_part(prepared(task, part, source, size=size, interpolation=interpolation), task, part)
        for part in PARTS[split]
    ]
    if len(parts) == 1:
        return parts[0]
    return Split(
        images=np.concatenate([part.images for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        digest=hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest(),
    )


def begin(task: Task, split: str, source: Source, *, size: int, interpolation: str) -> None:
    """What is stored of a split is read and checked from now on, beside all else; `load` waits for the rest of it."""
    for part in PARTS[split]:
        with suppress(OSError):  # what is not there is prepared by `load`
            images_sha256(folder_of(task, part, source, size=size, interpolation=interpolation))


def proof(task: Task, source: Source, *, size: int, interpolation: str) -> dict[str, Any]:
    """The verdict on train800 and val200, with the fingerprints found. A wrong split raises `UserError`."""
    train800, val200 = (
        read_names(prepared(task, part, source, size=size, interpolation=interpolation), task, part)
        for part in PARTS["train800val200"]
    )
    verdict = prove(task, train800, val200)
    names_known = train800 is not None and val200 is not None
    return {"verdict": verdict, "fingerprint": fingerprint_of(train800, val200) if names_known else None}
