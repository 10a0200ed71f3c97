"""A data source of drawn images whose class shows as a color: learned in seconds, the same on every machine."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from moppa.data.source import Example


@dataclass(frozen=True, kw_only=True)
class ToySource:
    lineage: ClassVar[str] = "toy"

    dir: str
    cache: str
    name: str = "toy"
    download: bool = False
    mirror: str | None = None
    surplus: int = 0
    label_shift: int = 0

    def examples(self, task, split):
        random = np.random.default_rng(len(split))
        for index in range(task.num_images(split) + self.surplus):
            label = index % task.num_classes
            color = 40 + 170 * np.array([label % 3, label // 3 % 3, label % 2]) / 2
            image = np.clip(color + random.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
            yield Example(image, label + self.label_shift, f"{split}_{index}.png")
