"""Reads images of your own: from folders SPLIT/CLASS/IMAGE, or from a CSV that names each image's class and split."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from PIL import Image

from moppa.data.source import Example
from moppa.data.task import Task
from moppa.utils.errors import UserError

COLUMNS = ("path", "label", "split")


class Entry(NamedTuple):
    """One image: its file, the names of its class and its split, and its own name in a fingerprint."""

    file: Path
    label: str
    split: str
    name: str


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """The user's own lineage.

    `table` is a CSV in `dir`, or None if the folders give split and class. `classes` holds the class names in the
    order of their numbers; None means the class names of all splits, sorted.
    """

    lineage: ClassVar[str] = "own"

    name: str
    dir: str
    cache: str
    table: str | None
    classes: Sequence[str] | None

    def examples(self, task: Task, split: str) -> Iterator[Example]:
        """Yields the examples of train800, val200 or test: folders sorted by path, a CSV in its own order.

        Raises:
            UserError: if the files, the classes or their numbers are not those that the task describes.
        """
        folder, own_name = Path(self.dir).expanduser(), task.splits[split]
        own_names = list(task.splits.values())
        if self.table is None:
            entries = entries_in_folders(folder, own_names)
        else:
            entries = entries_in_csv(folder / self.table, own_names)
        check_disjoint(entries)
        label_by_class = {name: label for label, name in enumerate(self._class_names(task, entries))}
        split_entries = [entry for entry in entries if entry.split == own_name]
        if len(split_entries) != task.num_images(split):
            raise UserError(
                f"task {task.name}: split {own_name!r} in {folder} holds {len(split_entries)} images, the task needs "
                f"{task.num_images(split)}: train800 and val200 are 800 and 200, the test set is task.num_test"
            )
        for entry in split_entries:
            label = task.label({"label": label_by_class[entry.label], "class": entry.label})
            yield Example(read_image(entry.file), label, entry.name)

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


def entries_in_folders(root: Path, splits: Sequence[str]) -> list[Entry]:
    """Returns the images SPLIT/CLASS/... below `root`, sorted by path. An image's name is its path below SPLIT."""
    suffixes = Image.registered_extensions()
    entries = []
    for split in splits:
        folder = root / split
        if not folder.is_dir():
            raise UserError(
                f"no folder {folder} (data.dir, task.splits): put the images in {folder}/CLASS/, or name a CSV with "
                f"data.table=FILE"
            )
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
        names = [file.relative_to(folder) for file in files]
        if outside := [name for name in names if len(name.parts) < 2]:
            raise UserError(f"{folder / outside[0]} is in no class folder: move it to {folder}/CLASS/")
        entries += [Entry(file, name.parts[0], split, name.as_posix()) for file, name in zip(files, names, strict=True)]
    return entries


def entries_in_csv(table: Path, splits: Sequence[str]) -> list[Entry]:
    """Returns the rows of a CSV in order. Paths are relative to its folder; an image's name is its path in the CSV."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{table} cannot be read ({reason}); name a CSV in data.dir with data.table=FILE") from error
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise UserError(f"{table} lacks the column {missing[0]}: its first line must name {','.join(COLUMNS)}")
    for number, row in enumerate(rows, start=2):
        if not all(row[name] for name in COLUMNS):
            raise UserError(f"{table} line {number}: a path, a label or a split is missing; complete or delete it")
        if row["split"] not in splits:
            raise UserError(
                f"{table} line {number}: split {row['split']!r} is not one of the task's ({', '.join(splits)}); "
                f"correct it, or task.splits"
            )
    return [Entry(table.parent / row["path"], row["label"], row["split"], row["path"]) for row in rows]


def check_disjoint(entries: Sequence[Entry]) -> None:
    """Raises `UserError` if a file appears twice, in one split or in two."""
    first_entry: dict[Path, Entry] = {}
    for entry in entries:
        other = first_entry.setdefault(entry.file.resolve(), entry)
        if other is not entry:
            raise UserError(
                f"{entry.file} is in split {other.split!r} and again in {entry.split!r}; an image may be in one split "
                f"only, once: remove one of the two"
            )


def read_image(file: Path) -> bytes:
    """Returns the encoded image."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}); put it there or remove its row") from error
