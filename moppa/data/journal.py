"""What of a part is on disk already, so that a killed run goes on: one line for the task, then one for every chunk.

Threads write chunks wherever they belong, in any order; the journal vouches for them in order.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from moppa.data.images import hash_array


@dataclass(kw_only=True)
class Journaled:
    """What of a part is on disk: where its images begin, their labels and names, and the running sha256 of sha256s."""

    offset: int = 0  # bytes
    labels: list[int] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    pixels: Any = field(default_factory=hashlib.sha256)

    @property
    def done(self) -> int:
        return len(self.labels)


def start_journal(images: BinaryIO, journal: TextIO, facts: dict[str, Any]) -> Journaled:
    """Empties both files, then writes the array's header and the journal's first line: what is being made."""
    for file in (images, journal):
        if file.seek(0, os.SEEK_END):  # ext4 writes a file that was emptied to disk at every close, and waits
            file.seek(0)
            file.truncate()
    shape = (facts["count"], facts["size"], facts["size"], 3)
    np.lib.format.write_array_header_1_0(images, {"descr": "|u1", "fortran_order": False, "shape": shape})
    images.flush()
    journal.write(json.dumps({"facts": facts}) + "\n")
    return Journaled(offset=images.tell())


def recover_journal(images: BinaryIO, journal: TextIO, facts: dict[str, Any]) -> Journaled:
    """The chunks that a killed run left whole, by their digest; what follows them is cut off from both files."""
    progress, trusted = Journaled(), 0
    journal.seek(0)
    lines = journal.read().splitlines(keepends=True)
    try:
        if json.loads(lines[0])["facts"] != json.loads(json.dumps(facts)):  # another version: nothing of it fits
            return progress
        images.seek(0)
        np.lib.format.read_magic(images)
        np.lib.format.read_array_header_1_0(images)
        progress.offset = trusted = images.tell()
        image_bytes = 3 * facts["size"] ** 2
        kept = len(lines[0])
        for line in lines[1:]:
            chunk, pixels = json.loads(line), progress.pixels.copy()
            for _ in chunk["labels"]:
                pixels.update(hashlib.sha256(images.read(image_bytes)).digest())
            if pixels.hexdigest() != chunk["sha256"]:
                break
            progress.labels += chunk["labels"]
            progress.names += chunk["names"]
            progress.pixels, trusted, kept = pixels, images.tell(), kept + len(line)
    except (IndexError, KeyError, TypeError, ValueError):  # torn at the end: what was read until there stands
        if not progress.done:
            return Journaled()
    images.seek(trusted)
    images.truncate()
    journal.seek(0)
    journal.truncate(kept)
    return progress


def write_chunk(file: Path, place: int, chunk: Sequence[np.ndarray]) -> list[bytes]:
    """Writes images (S, S, 3) from byte `place` on and gives their digests; other threads may be at other places."""
    with file.open("r+b") as images:
        images.seek(place)
        for image in chunk:
            images.write(image)
    return [hash_array(image) for image in chunk]


def append_chunk(
    journal: TextIO, progress: Journaled, *, digests: list[bytes], labels: list[int], names: list[str | None]
) -> None:
    """The line that vouches for the next chunk, which is written."""
    progress.pixels.update(b"".join(digests))
    progress.labels += labels
    progress.names += names
    journal.write(json.dumps({"labels": labels, "names": names, "sha256": progress.pixels.hexdigest()}) + "\n")
    journal.flush()
