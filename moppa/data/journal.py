"""What of a part is on disk already, so that a killed run goes on: one line for the task, then one for every chunk."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TextIO

import numpy as np


@dataclass(kw_only=True)
class Progress:
    """What of a part is on disk: labels and names by image, and the running sha256 of the pixels."""

    labels: list[int] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    pixels: Any = field(default_factory=hashlib.sha256)

    @property
    def done(self) -> int:
        return len(self.labels)


def start(images: BinaryIO, journal: TextIO, facts: dict[str, Any]) -> None:
    """Empties both files, then writes the array's header and the journal's first line: what is being made."""
    for file in (images, journal):
        file.seek(0)
        file.truncate()
    shape = (facts["count"], facts["size"], facts["size"], 3)
    np.lib.format.write_array_header_1_0(images, {"descr": "|u1", "fortran_order": False, "shape": shape})
    journal.write(json.dumps({"facts": facts}) + "\n")


def recovered(images: BinaryIO, journal: TextIO, facts: dict[str, Any]) -> Progress:
    """The chunks that a killed run left whole, by their digest; what follows them is cut off from both files."""
    progress, trusted = Progress(), 0
    journal.seek(0)
    lines = journal.read().splitlines(keepends=True)
    try:
        if json.loads(lines[0])["facts"] != json.loads(json.dumps(facts)):  # another version: nothing of it fits
            return progress
        images.seek(0)
        np.lib.format.read_magic(images)
        np.lib.format.read_array_header_1_0(images)
        trusted, image_bytes = images.tell(), 3 * facts["size"] ** 2
        kept = len(lines[0])
        for line in lines[1:]:
            chunk, pixels = json.loads(line), progress.pixels.copy()
            pixels.update(images.read(len(chunk["labels"]) * image_bytes))
            if pixels.hexdigest() != chunk["sha256"]:
                break
            progress.labels += chunk["labels"]
            progress.names += chunk["names"]
            progress.pixels, trusted, kept = pixels, images.tell(), kept + len(line)
    except (IndexError, KeyError, TypeError, ValueError):  # torn at the end: what was read until there stands
        if not progress.done:
            return Progress()
    images.seek(trusted)
    images.truncate()
    journal.seek(0)
    journal.truncate(kept)
    return progress


def add(
    images: BinaryIO,
    journal: TextIO,
    progress: Progress,
    *,
    pixels: Sequence[np.ndarray],
    labels: list[int],
    names: list[str | None],
) -> None:
    """Writes a chunk of images (S, S, 3), then the journal's line that vouches for it."""
    for image in pixels:
        images.write(image)
        progress.pixels.update(image)
    images.flush()
    progress.labels += labels
    progress.names += names
    journal.write(json.dumps({"labels": labels, "names": names, "sha256": progress.pixels.hexdigest()}) + "\n")
    journal.flush()
