"""Reads images that TensorFlow Datasets (TFDS) prepared as array_record files, without TensorFlow."""

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, ClassVar

from moppa.data.download import download_and_prepare, how_to_get
from moppa.data.source import Example
from moppa.data.task import Task
from moppa.data.tfds_mirror import copy_prepared
from moppa.utils import validate
from moppa.utils.errors import UserError, first_line
from moppa.utils.paths import user_path


@dataclass(frozen=True, kw_only=True)
class TfdsSource:
    """The lossless lineage. `dir` is the data folder of TFDS; `cache` is the folder of the resized images.

    `download` says whether a data set that is not in `dir` is downloaded; otherwise it is an error. `mirror` is a place
    with copies, which are tried first.
    """

    lineage: ClassVar[str] = "tfds"

    name: str
    dir: str
    cache: str
    download: bool
    mirror: str | None = None  # records from before this setting do not have it

    def __post_init__(self) -> None:
        validate.one_of("name", self.name, ("tfds",))
        validate.boolean("download", self.download)
        if self.mirror is not None:
            validate.text("mirror", self.mirror)

    def examples(self, task: Task, split: str) -> Iterator[Example]:
        """Yields the examples of train800, val200 or test in the data set's own order.

        Raises:
            UserError: if the data set is absent, stored in another file format, or damaged.
        """
        records = self._open(task, task.splits[split])
        try:
            for index in range(len(records)):
                yield to_example(task, records[index])
        except (IndexError, RuntimeError, ValueError, OSError) as error:
            if isinstance(error, UserError):
                raise
            raise self._damaged(task, error) from error

    def origin(self, task: Task) -> str:
        """Returns the full TFDS name of the data set, for example `eurosat/rgb/2.0.0`."""
        return self.builder(task).info.full_name

    def check_origin(self, task: Task, origin: str) -> None:
        """Raises `UserError` if `dir` holds the data set of the task, but not the version in `origin`."""
        name, _, version = origin.rpartition("/")
        folder, pattern = user_path(self.dir) / name, task.builder.partition(":")[2] or "*"
        prepared = [file.parent.name for file in folder.glob("*/dataset_info.json")]
        others = sorted(other for other in prepared if fnmatch(other, pattern))
        if name and others and version not in others:
            raise UserError(
                f"task {task.name}: data.cache={self.cache} holds images of {origin}, but data.dir={self.dir} holds "
                f"version {', '.join(others)}; choose another folder with data.cache=DIR, or the other data.dir"
            )

    def builder(self, task: Task) -> Any:
        """Returns the TFDS builder of the task; its data set need not be prepared."""
        # imported here, because it takes a second that a cached split does not need
        import tensorflow_datasets as tfds

        try:
            return tfds.builder(task.builder, data_dir=user_path(self.dir))
        except Exception as error:  # whatever TFDS raises for a name, variant or version that it does not know
            raise UserError(
                f"task {task.name}: TFDS cannot build task.builder={task.builder}: {' '.join(str(error).split())[:400]}"
            ) from error

    def is_prepared(self, task: Task) -> bool:
        """Returns whether `dir` holds the complete data set of the task."""
        absl = logging.getLogger("absl")
        level = absl.level
        absl.setLevel(logging.ERROR)  # TFDS warns about an absent folder, which is normal here
        try:
            return self.builder(task).is_prepared()
        finally:
            absl.setLevel(level)

    def _open(self, task: Task, tfds_split: str) -> Any:
        builder = self._prepared_builder(task)
        import tensorflow_datasets as tfds

        try:
            return builder.as_data_source(split=tfds_split, decoders={"image": tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            raise UserError(
                f"task {task.name}: {builder.data_path} is not stored as array_record, which is read without "
                f"TensorFlow; delete that folder or choose another data.dir, then {how_to_get(task, self.dir)}"
            ) from error
        except (RuntimeError, ValueError, OSError) as error:
            raise self._damaged(task, error) from error

    def _prepared_builder(self, task: Task) -> Any:
        builder = self.builder(task)
        if self.is_prepared(task):
            return builder
        if self.mirror is not None:
            if copy_prepared(self.mirror, builder):
                return self.builder(task)
            print(f"data.mirror={self.mirror} has no copy of {builder.info.full_name}", file=sys.stderr)
        if not self.download:
            raise UserError(
                f"task {task.name}: no prepared {task.builder} in {builder.data_path} (data.dir={self.dir}, "
                f"data.download=false); get it with: {how_to_get(task, self.dir)}"
            )
        download_and_prepare(builder, task, self.dir)
        return self.builder(task)

    def _damaged(self, task: Task, error: Exception) -> UserError:
        return UserError(
            f"task {task.name}: {task.builder} in {self.dir} cannot be read ({first_line(error)}); a file there is "
            f"missing, empty or truncated: delete the folder of that version and prepare it again"
        )


def to_example(task: Task, record: dict[str, Any]) -> Example:
    """Returns a TFDS record as an example with the task's label and name."""
    name = None if task.name_key is None else record[task.name_key]
    return Example(record["image"], task.label(record), name.decode() if isinstance(name, bytes) else name)
