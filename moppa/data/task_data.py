"""The images of one task from one source, as one protocol may read them."""

from dataclasses import dataclass
from typing import Any

from moppa.data import cache
from moppa.data.split import Source, Split
from moppa.data.task import Protocol, Task


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A task's images, resized for a backbone. Only the two splits of the protocol can be loaded."""

    task: Task
    source: Source
    protocol: Protocol
    size: int
    interpolation: str

    @property
    def train_split(self) -> str:
        """The split that is trained on."""
        return self.protocol.train

    @property
    def eval_split(self) -> str:
        """The split that is evaluated."""
        return self.protocol.evaluate

    def load(self, split: str) -> Split:
        """Returns images (N, S, S, 3) uint8 and labels (N,) of a split, prepared first if they are not cached.

        Raises:
            UserError: if the protocol does not read this split, or its images are damaged or of another version.
        """
        load = self.protocol.only(
            lambda name: cache.load_split(
                self.task, name, self.source, size=self.size, interpolation=self.interpolation
            )
        )
        return load(split)

    def check(self) -> dict[str, Any]:
        """Returns the split check and the fingerprints of the training images. A wrong split raises `UserError`."""
        return cache.split_check(self.task, self.source, size=self.size, interpolation=self.interpolation)

    def start_reading(self, split: str) -> None:
        """Starts to read and hash the cached images of a split in the background."""
        cache.start_reading(self.task, split, self.source, size=self.size, interpolation=self.interpolation)
