"""Images of one's own: a folder for each split and in it one for each class, or a CSV that says what is what."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from moppa.data.task import Task
from moppa.data.tfds import Example
from moppa.utils.errors import UserError

COLUMNS = ("path", "label", "split")


class Entry(NamedTuple):
    """One image: its file, the name of its class, the name of its split, and what it is called in a fingerprint."""

    file: Path
    label: str
    split: str
    name: str


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """The user's own lineage. `table` is a CSV in `dir`, or None where the folders say split and class.

    `classes` are the classes' names in the order of their numbers, or None for the names of all splits, sorted.
    """

    lineage: str
    dir: str
    cache: str
    table: str | None
    classes: Sequence[str] | None

    def examples(self, task: Task, part: str) -> Iterator[Example]:
        """Yields train800, val200 or test: the folders in the order of their names, a CSV in its own.

        Raises:
            UserError: where files, classes or numbers are not those that the task describes.
        """
        place = Path(self.dir).expanduser()
        splits = list(task.splits.values())
        entries = in_folders(place, splits) if self.table is None else in_table(place / self.table, splits)
        check_apart(entries)
        number_of = {name: number for number, name in enumerate(self._classes(task, entries))}
        mine = [entry for entry in entries if entry.split == task.splits[part]]
        if len(mine) != task.size_of(part):
            raise UserError(
                f"task {task.name}: split {task.splits[part]!r} in {place} holds {len(mine)} images, the task needs "
                f"{task.size_of(part)}: train800 and val200 are 800 and 200, the test set is task.num_test"
            )
        for entry in mine:
            yield Example(
                read_image(entry.file),
                task.label({"label": number_of[entry.label], "class": entry.label}),
                entry.name,
            )

    def _classes(self, task: Task, entries: Sequence[Entry]) -> list[str]:
        """The classes by number: as many as the task has, whatever a split may show of them."""
        seen = {entry.label for entry in entries}
        by_number = all(name.isdecimal() for name in seen)
        names = sorted(seen, key=lambda name: (int(name) if by_number else 0, name))
        if self.classes is not None:
            names = [str(name) for name in self.classes]
            if unknown := sorted(seen - set(names)):
                raise UserError(f"task {task.name}: class {unknown[0]!r} is not in data.classes={names}: add it there")
        if len(names) != task.num_classes or len(set(names)) != len(names):
            raise UserError(
                f"task {task.name}: {len(set(names))} classes in {self.dir} ({', '.join(names[:5])}, ...), but "
                f"task.num_classes={task.num_classes}; name every class once in data.classes=[...], or correct "
                f"task.num_classes"
            )
        return names


def in_folders(place: Path, splits: Sequence[str]) -> list[Entry]:
    """The images below SPLIT/CLASS/ in the order of their paths; a name is what stands after SPLIT/."""
    suffixes = Image.registered_extensions()
    entries = []
    for split in splits:
        folder = place / split
        if not folder.is_dir():
            raise UserError(
                f"no folder {folder} (data.dir, task.splits): put the images in {folder}/CLASS/, or name a CSV with "
                f"data.table=FILE"
            )
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
        names = [file.relative_to(folder) for file in files]
        if loose := [name for name in names if len(name.parts) < 2]:
            raise UserError(f"{folder / loose[0]} lies in no class: move it to {folder}/CLASS/")
        entries += [Entry(file, name.parts[0], split, name.as_posix()) for file, name in zip(files, names, strict=True)]
    return entries


def in_table(table: Path, splits: Sequence[str]) -> list[Entry]:
    """The rows of a CSV in their order; paths are meant from its folder, and a name is the path as it stands there."""
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
                f"{table} line {number}: split {row['split']!r} is none of the task's ({', '.join(splits)}); correct "
                f"it, or task.splits"
            )
    return [Entry(table.parent / row["path"], row["label"], row["split"], row["path"]) for row in rows]


def check_apart(entries: Sequence[Entry]) -> None:
    """Every file is in one split, once."""
    owner: dict[Path, Entry] = {}
    for entry in entries:
        other = owner.setdefault(entry.file.resolve(), entry)
        if other is not entry:
            raise UserError(
                f"{entry.file} is in split {other.split!r} and again in {entry.split!r}; an image may be in one split "
                f"only, once: remove one of the two"
            )


def read_image(file: Path) -> bytes:
    """The image as it lies on disk."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}); put it there or remove its row") from error
