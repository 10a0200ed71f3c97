"""The images of one task from one source, restricted to the splits of one protocol."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moppa.data import cache
from moppa.data.check import split_check
from moppa.data.few_shot import draw_images
from moppa.data.images import ImageFormat, hash_images
from moppa.data.source import Source
from moppa.data.split import Split, read_decoded, read_names
from moppa.data.task import Protocol, Task


@dataclass(frozen=True)
class TaskData:
    """The images of a task in the format that a backbone expects. Only the two splits of the protocol can be loaded.

    `seed` is that of the cell, from which a few-shot protocol without a `draw` of its own draws the training images.
    """

    task: Task
    source: Source
    protocol: Protocol
    image_format: ImageFormat
    seed: int = 0

    @property
    def train_split(self) -> str:
        """The split to train on."""
        return self.protocol.train

    @property
    def eval_split(self) -> str:
        """The split to evaluate on."""
        return self.protocol.evaluate

    @cached_property
    def folders(self) -> dict[str, Path]:
        """The folders of the training splits and of the protocol's in the cache, prepared before the training.

        They are determined once, so that all splits of a cell are of the same state of the source. Both training splits
        are among them, because the split check compares them.
        """
        splits = ("train800val200", self.eval_split)
        return cache.prepare_splits(self.task, splits, self.source, self.image_format)

    def load(self, split: str) -> Split:
        """Returns images (N, S, S, 3) uint8 and labels (N,) of a split, and prepares them first if they are not cached.

        Raises:
            UserError: if the split is not one of the protocol's, or if its images are damaged or of another version.
        """
        loaded = self.protocol.restrict(lambda name: cache.load_folders(self.task, name, self.folders))(split)
        return loaded if self.protocol.shots is None or split != self.train_split else self._drawn(loaded)

    def _drawn(self, split: Split) -> Split:
        """Returns the images of the training split that the few-shot protocol draws.

        A name identifies an image, because decoders may differ in a bit; without names the decoded pixels do.
        """
        protocol, name = self.protocol, self.train_split
        ids = read_names(self.folders[name], self.task, name)
        if ids is None:
            ids = [digest.tobytes().hex() for digest in read_decoded(self.folders[name], self.task, name)]
        indices = draw_images(
            ids,
            split.labels,
            shots=protocol.shots or 0,
            seed=self.seed if protocol.draw is None else protocol.draw,
            num_classes=self.task.num_classes,
            name=f"{name} of task {self.task.name} ({self.task.splits[name]})",
        )
        images = split.images[indices]
        return Split(images=images, labels=split.labels[indices], digest=hash_images(images))

    def check(self) -> dict[str, Any]:
        """Returns what a record says about its splits (`moppa.data.check.split_check`), before the training.

        Raises:
            UserError: if the images are not the task's official splits, or if one of the user's own is in two of them.
        """
        return split_check(self.task, self.source, self.folders)

    def names(self, split: str) -> list[str] | None:
        """Returns the names of the images of a split in order; None if the source has none.

        Raises:
            UserError: if the split is not one of the protocol's.
        """
        names = self.protocol.restrict(lambda name: read_names(self.folders[name], self.task, name))
        return names(split)

    def start_reading(self, split: str) -> None:
        """Starts to read and hash the cached images of a split in the background."""
        cache.start_reading(split, self.folders)
