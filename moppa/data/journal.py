"""Records which images of a split are already on disk, so that an interrupted preparation can resume.

The first line of the journal describes the split. Each further line vouches for one chunk of images, in order, with
the sha256 of all image digests so far. Threads may write the chunks themselves in any order.
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
from moppa.data.source import Example


@dataclass(kw_only=True)
class Progress:
    """The images of a split that the journal vouches for.

    `offset` is the position of the first image in the array file, in bytes. `digest` is the running sha256 of the
    sha256 digests of all images. `decoded` holds the sha256 of each image before it was resized, in hex digits.
    """

    offset: int = 0
    labels: list[int] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    decoded: list[str] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def num_images(self) -> int:
        return len(self.labels)


def resume_journal(images: BinaryIO, journal: TextIO, facts: dict[str, Any]) -> Progress:
    """Returns the progress of an interrupted preparation with the same `facts`, or starts a new one.

    Both files are cut after the last chunk whose digest holds.
    """
    progress = recover(images, journal, facts)
    return progress if progress.num_images else start(images, journal, facts)


def start(images: BinaryIO, journal: TextIO, facts: dict[str, Any]) -> Progress:
    """Empties both files, then writes the header of the array and the first line of the journal."""
    for file in (images, journal):
        if file.seek(0, os.SEEK_END):  # do not truncate an empty file: ext4 would then wait for the disk at every close
            file.seek(0)
            file.truncate()
    shape = (facts["count"], facts["size"], facts["size"], 3)
    np.lib.format.write_array_header_1_0(images, {"descr": "|u1", "fortran_order": False, "shape": shape})
    images.flush()
    journal.write(json.dumps({"facts": facts}) + "\n")
    return Progress(offset=images.tell())


def recover(images: BinaryIO, journal: TextIO, facts: dict[str, Any]) -> Progress:
    """Returns the progress up to the last chunk whose digest holds and cuts both files there."""
    progress, images_end = Progress(), 0
    journal.seek(0)
    lines = journal.read().splitlines(keepends=True)
    try:
        if json.loads(lines[0])["facts"] != json.loads(json.dumps(facts)):  # another version: nothing can be kept
            return progress
        images.seek(0)
        np.lib.format.read_magic(images)
        np.lib.format.read_array_header_1_0(images)
        progress.offset = images_end = images.tell()
        image_bytes = 3 * facts["size"] ** 2
        journal_end = len(lines[0])
        for line in lines[1:]:
            chunk, digest = json.loads(line), progress.digest.copy()
            for _ in chunk["labels"]:
                digest.update(hashlib.sha256(images.read(image_bytes)).digest())
            if digest.hexdigest() != chunk["sha256"]:
                break
            progress.labels += chunk["labels"]
            progress.names += chunk["names"]
            progress.decoded += chunk["decoded"]
            progress.digest, images_end, journal_end = digest, images.tell(), journal_end + len(line)
    except (IndexError, KeyError, TypeError, ValueError):  # a torn line: keep the chunks before it
        if not progress.num_images:
            return Progress()
    images.seek(images_end)
    images.truncate()
    journal.seek(0)
    journal.truncate(journal_end)
    return progress


def write_chunk(file: Path, offset: int, chunk: Sequence[np.ndarray]) -> list[bytes]:
    """Writes images (S, S, 3) from byte `offset` on and returns their digests. Threads may write to one file."""
    with file.open("r+b") as images:
        images.seek(offset)
        for image in chunk:
            images.write(image.data)
    return [hash_array(image) for image in chunk]


def append_chunk(
    journal: TextIO, progress: Progress, chunk: Sequence[Example], digests: Sequence[bytes], decoded: Sequence[bytes]
) -> None:
    """Appends the line that vouches for the next chunk, which is on disk, and adds the chunk to `progress`."""
    line = {
        "labels": [int(example.label) for example in chunk],
        "names": [example.name for example in chunk],
        "decoded": [digest.hex() for digest in decoded],
    }
    progress.digest.update(b"".join(digests))
    progress.labels += line["labels"]
    progress.names += line["names"]
    progress.decoded += line["decoded"]
    journal.write(json.dumps({**line, "sha256": progress.digest.hexdigest()}) + "\n")
    journal.flush()
