"""The images of one task from one source, restricted to the splits of one protocol."""

from dataclasses import dataclass
from typing import Any

from moppa.data import cache
from moppa.data.images import ImageFormat
from moppa.data.source import Source
from moppa.data.split import Split
from moppa.data.task import Protocol, Task


@dataclass(frozen=True)
class TaskData:
    """The images of a task in the format that a backbone expects. Only the two splits of the protocol can be loaded."""

    task: Task
    source: Source
    protocol: Protocol
    image_format: ImageFormat

    @property
    def train_split(self) -> str:
        """The split to train on."""
        return self.protocol.train

    @property
    def eval_split(self) -> str:
        """The split to evaluate on."""
        return self.protocol.evaluate

    def load(self, split: str) -> Split:
        """Returns images (N, S, S, 3) uint8 and labels (N,) of a split, and prepares them first if they are not cached.

        Raises:
            UserError: if the split is not one of the protocol's, or if its images are damaged or of another version.
        """
        load = self.protocol.restrict(lambda name: cache.load_split(self.task, name, self.source, self.image_format))
        return load(split)

    def check(self) -> dict[str, Any]:
        """Returns the split check of the training images as `verdict`, and their `fingerprint`.

        Raises:
            UserError: if the images are not the task's official split.
        """
        return cache.split_check(self.task, self.source, self.image_format)

    def start_reading(self, split: str) -> None:
        """Starts to read and hash the cached images of a split in the background."""
        cache.start_reading(self.task, split, self.source, self.image_format)
