"""Defines what a data source provides: examples of a task, one at a time."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from moppa.data.task import Task


class Example(NamedTuple):
    """One image with its label and name.

    `image` holds the encoded bytes or a uint8 array (H, W, channels). `is_scaled` is true if the pixels already
    include the task's `pixel_scale`, as in a dump that was made for viewing. `file` is the image's file, which errors
    name. `as_displayed` is true if the image is to be read as a viewer shows it: turned as its EXIF data say, and its
    transparent parts on white. The benchmark's own data sets are read without both, as their papers did.
    """

    image: bytes | np.ndarray
    label: int
    name: str | None
    is_scaled: bool = False
    file: Path | None = None
    as_displayed: bool = False


@runtime_checkable
class Source(Protocol):
    """Provides the images of a task; `moppa/data/tfds.py` is an example.

    `lineage` names where the pixels come from. `cache` is the folder of the resized images.
    """

    lineage: str
    cache: str

    def examples(self, task: Task, split: str) -> Iterator[Example]:
        """Yields the examples of train800, val200 or test, in order."""
        ...


@runtime_checkable
class SourceWithOrigin(Protocol):
    """A source that knows the full name and version of the data set that it reads."""

    def origin(self, task: Task) -> str:
        """Returns the name and version, for example `eurosat/rgb/2.0.0`."""
        ...


@runtime_checkable
class SourceWithVersions(Protocol):
    """A source whose folder can hold several versions of a data set."""

    def check_origin(self, task: Task, origin: str) -> None:
        """Raises `UserError` if the folder holds this data set, but not the version in `origin`."""
        ...


@runtime_checkable
class SourceWithContent(Protocol):
    """A source that reads files of the user, which can change."""

    def content(self, task: Task, split: str) -> str:
        """Returns the sha256 of everything that decides the images, names and labels of a split."""
        ...


@runtime_checkable
class SourceWithClassNames(Protocol):
    """A source whose files name the classes."""

    def class_names(self, task: Task) -> list[str]:
        """Returns the names of the classes in the order of their labels."""
        ...


def class_names_of(task: Task, source: Source) -> list[str] | None:
    """Returns the names of the classes in the order of their labels, or None if the source does not know them."""
    return source.class_names(task) if isinstance(source, SourceWithClassNames) else None


def content_of(task: Task, split: str, source: Source) -> str | None:
    """Returns the sha256 of the content of a split, or None if the task's definition and version decide it."""
    return source.content(task, split) if isinstance(source, SourceWithContent) else None


def allows_shared_images(source: Source) -> bool:
    """Returns whether an image may be in two splits: in a published data set it may, in the user's own by a setting."""
    return getattr(source, "allow_shared_images", True)


def has_official_pixels(source: Source) -> bool:
    """Returns whether decoded pixels are those of the task's data set, and not those of a lossy copy."""
    return not getattr(source, "is_reencoded", False)


def chunked(examples: Iterator[Example], size: int) -> Iterator[list[Example]]:
    """Yields the examples in lists of up to `size`."""
    while chunk := list(islice(examples, size)):
        yield chunk
