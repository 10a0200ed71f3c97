"""Images of noise, for benchmarks on machines without data sets."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from moppa.data.source import Example
from moppa.data.task import Task

SIDE = 64  # pixels, as EuroSAT's


@dataclass(frozen=True, kw_only=True)
class NoiseSource:
    """Seeded noise with the number of images and classes of a task."""

    lineage: ClassVar[str] = "noise"

    dir: str
    cache: str
    name: str
    download: bool
    mirror: str | None

    def examples(self, task: Task, split: str) -> Iterator[Example]:
        """Yields the examples of a split."""
        random = np.random.default_rng(len(split))
        for index in range(task.num_images(split)):
            image = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            yield Example(image, index % task.num_classes, f"{split}_{index}.png")
