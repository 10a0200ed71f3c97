"""Images as TensorFlow Datasets prepared them (array_record), read without TensorFlow."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moppa.data.download import download_and_prepare, how_to_get
from moppa.data.task import Task
from moppa.utils import validate
from moppa.utils.errors import UserError


class Example(NamedTuple):
    """One image as its source holds it: encoded bytes or a uint8 array (H, W, channels); its class; its name.

    `is_scaled` says that the task's `pixel_scale` is in the pixels already, as in a dump made for viewing.
    """

    image: bytes | np.ndarray
    label: int
    name: str | None
    is_scaled: bool = False


@dataclass(frozen=True, kw_only=True)
class TfdsSource:
    """The lossless lineage. `dir` is the TFDS data folder; `store` is where the resized arrays go.

    `download` says whether a data set that is not in `dir` is fetched, after saying so, or is an error.
    """

    lineage: str
    dir: str
    cache: str
    download: bool

    def __post_init__(self) -> None:
        validate.boolean("data.download", self.download)

    def examples(self, task: Task, part: str) -> Iterator[Example]:
        """Yields train800, val200 or test in the data set's own order.

        Raises:
            UserError: where the data set is absent, in another file format, or damaged.
        """
        records = self._open(task, task.splits[part])
        try:
            for index in range(len(records)):
                yield self._example(task, records[index])
        except (IndexError, RuntimeError, ValueError, OSError) as error:
            if isinstance(error, UserError):
                raise
            raise self._damaged(task, error) from error

    def origin(self, task: Task) -> str:
        """TFDS's full name of what is read, for example `eurosat/rgb/2.0.0`."""
        return self.builder(task).info.full_name

    def builder(self, task: Task) -> Any:
        """TFDS's builder of the task, whether it is prepared or not."""
        import tensorflow_datasets as tfds  # late: it costs a second that a cached split does not need

        try:
            return tfds.builder(task.builder, data_dir=Path(self.dir).expanduser())
        except (AssertionError, tfds.core.registered.DatasetNotFoundError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"task {task.name}: TFDS cannot build task.builder={task.builder}: {reason}") from error

    def is_prepared(self, task: Task) -> bool:
        """Whether TFDS has the task's data set in `dir`, whole."""
        absl = logging.getLogger("absl")
        level = absl.level
        absl.setLevel(logging.ERROR)  # TFDS warns of a folder that is not there: that is what is asked
        try:
            return self.builder(task).is_prepared()
        finally:
            absl.setLevel(level)

    def _open(self, task: Task, split: str) -> Any:
        builder = self._prepared(task)
        import tensorflow_datasets as tfds

        try:
            return builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            raise UserError(
                f"task {task.name}: {builder.data_path} is not stored as array_record, which is read without "
                f"TensorFlow; delete that folder or choose another data.dir, then {how_to_get(task, self.dir)}"
            ) from error
        except (RuntimeError, ValueError, OSError) as error:
            raise self._damaged(task, error) from error

    def _prepared(self, task: Task) -> Any:
        builder = self.builder(task)
        if self.is_prepared(task):
            return builder
        if not self.download:
            raise UserError(
                f"task {task.name}: no prepared {task.builder} in {builder.data_path} (data.dir={self.dir}, "
                f"data.download=false); get it with: {how_to_get(task, self.dir)}"
            )
        download_and_prepare(builder, task, self.dir)
        return self.builder(task)

    def _example(self, task: Task, record: dict) -> Example:
        name = None if task.name_key is None else record[task.name_key]
        return Example(record["image"], task.label(record), name.decode() if isinstance(name, bytes) else name)

    def _damaged(self, task: Task, error: Exception) -> UserError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return UserError(
            f"task {task.name}: {task.builder} in {self.dir} cannot be read ({reason}); a file there is missing, empty "
            f"or truncated: delete that version's folder and prepare it again"
        )
