"""Reads images of your own: from folders SPLIT/CLASS/IMAGE, or from a CSV that names each image's class and split."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from moppa.data.file_digests import digest_lines, file_digests, unreadable
from moppa.data.folder_files import Entry, Listing, check_disjoint, describe_passed_over, list_folders
from moppa.data.folder_table import list_table
from moppa.data.source import Example
from moppa.data.split import memory_file
from moppa.data.task import Task
from moppa.utils import validate
from moppa.utils.errors import SettingError, UserError
from moppa.utils.paths import user_path


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """The user's own lineage.

    `table` is a CSV in `dir`, or None if the folders give split and class. `classes` holds the class names in the
    order of their numbers; None means the class names of all splits, sorted. Unless `allow_shared_images`, an image
    that is in two splits is an error.
    """

    lineage: ClassVar[str] = "own"

    name: str
    dir: str
    cache: str
    table: str | None
    classes: Sequence[str | int] | None
    allow_shared_images: bool = False  # records from before this setting do not have it

    def __post_init__(self) -> None:
        validate.boolean("allow_shared_images", self.allow_shared_images)
        for name in self.classes or ():
            if isinstance(name, bool) or not isinstance(name, str | int):
                raise SettingError("classes", f": {name!r} is not the name of a class; put the name in quotes")

    def examples(self, task: Task, split: str) -> Iterator[Example]:
        """Yields the examples of train800, val200 or test: folders sorted by path, a CSV in its own order.

        Files that are passed over are counted on standard error.

        Raises:
            UserError: if the files, the classes or their numbers are not those that the task describes.
        """
        listing = self._listing(task)
        if passed_over := listing.passed_over.get(task.splits[split]):
            print(f"task {task.name}, {split}: {describe_passed_over(passed_over)}", file=sys.stderr)
        for entry, label in self._labeled(task, split, listing):
            yield Example(read_image(entry.file), label, entry.name, file=entry.file, as_displayed=True)

    def content(self, task: Task, split: str) -> str:
        """Returns the sha256 of the names, labels and files of a split, in order.

        Raises:
            UserError: as for `examples`.
        """
        labeled = self._labeled(task, split, self._listing(task))
        memory = memory_file(task, split, self.cache, self.lineage, user_path(self.dir))
        digests = file_digests([entry.file for entry, _ in labeled], memory)
        return digest_lines(
            [f"{entry.name}\0{label}\0{digest}" for (entry, label), digest in zip(labeled, digests, strict=True)]
        )

    def class_names(self, task: Task) -> list[str]:
        """Returns the names of the classes in the order of their labels; those of one label are joined.

        Raises:
            UserError: as for `examples`.
        """
        by_label: dict[int, list[str]] = {}
        for index, name in enumerate(self._class_names(task, self._listing(task).entries)):
            by_label.setdefault(task.label({"label": index, "class": name}), []).append(name)
        return [", ".join(names) for _, names in sorted(by_label.items())]

    def _listing(self, task: Task) -> Listing:
        folder, own_names = user_path(self.dir), list(task.splits.values())
        listing = list_folders(folder, own_names) if self.table is None else list_table(folder / self.table, own_names)
        check_disjoint(listing.entries)
        return listing

    def _labeled(self, task: Task, split: str, listing: Listing) -> list[tuple[Entry, int]]:
        """Returns the images of a split with their labels."""
        own_name = task.splits[split]
        label_by_class = {
            name: task.label({"label": index, "class": name})
            for index, name in enumerate(self._class_names(task, listing.entries))
        }
        entries = [entry for entry in listing.entries if entry.split == own_name]
        if len(entries) != task.num_images(split):
            passed_over = listing.passed_over.get(own_name)
            raise UserError(
                f"task {task.name}: split {own_name!r} in {self.dir} holds {len(entries)} images, the task needs "
                f"{task.num_images(split)}: its numbers are task.num_train={task.num_train}, "
                f"num_val={task.num_val} and num_test={task.num_test}"
                + (f"; {describe_passed_over(passed_over)}" if passed_over else "")
            )
        return [(entry, label_by_class[entry.label]) for entry in entries]

    def _class_names(self, task: Task, entries: Sequence[Entry]) -> list[str]:
        """Returns the class names in the order of their labels: those of all splits, or `classes`."""
        found = {entry.label for entry in entries}
        is_numeric = all(name.isdecimal() for name in found)
        names = sorted(found, key=lambda name: (int(name) if is_numeric else 0, name))
        if self.classes is not None:
            names = [str(name) for name in self.classes]
            if unknown := sorted(found - set(names)):
                raise UserError(f"task {task.name}: class {unknown[0]!r} is not in data.classes={names}: add it there")
        if len(names) != task.num_classes or len(set(names)) != len(names):
            raise UserError(
                f"task {task.name}: {len(set(names))} classes in {self.dir} ({', '.join(names[:5])}, ...), but "
                f"task.num_classes={task.num_classes}; name every class once in data.classes=[...], or correct "
                f"task.num_classes"
            )
        return names


def read_image(file: Path) -> bytes:
    """Returns the encoded image."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise unreadable(file, error) from error
