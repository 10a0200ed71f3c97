"""Defines what a data source provides: examples of a task, one at a time."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from moppa.data.task import Task


class Example(NamedTuple):
    """One image with its label and name.

    `image` holds the encoded bytes or a uint8 array (H, W, channels). `is_scaled` is true if the pixels already
    include the task's `pixel_scale`, as in a dump that was made for viewing.
    """

    image: bytes | np.ndarray
    label: int
    name: str | None
    is_scaled: bool = False


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


def chunked(examples: Iterator[Example], size: int) -> Iterator[list[Example]]:
    """Yields the examples in lists of up to `size`."""
    while chunk := list(islice(examples, size)):
        yield chunk
