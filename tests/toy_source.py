"""A source of drawn images whose class shows as a color: learnable in seconds, the same on every machine."""

from dataclasses import dataclass

import numpy as np

from moppa.data.tfds import Example


@dataclass(frozen=True, kw_only=True)
class ToySource:
    lineage: str
    dir: str
    cache: str
    download: bool = False
    surplus: int = 0
    label_shift: int = 0

    def examples(self, task, part):
        random = np.random.default_rng(len(part))
        for index in range(task.size_of(part) + self.surplus):
            label = index % task.num_classes
            color = 40 + 170 * np.array([label % 3, label // 3 % 3, label % 2]) / 2
            image = np.clip(color + random.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
            yield Example(image, label + self.label_shift, f"{part}_{index}.png")
