"""The folders of NOAH (Zhang et al., arXiv 2206.04673) and V-PETL Bench: JPEG dumps of the VTAB-1K images.

A task's folder holds `images/` and four lists: `train800.txt`, `val200.txt`, `train800val200.txt`, `test.txt`, one
image a line: its path in the folder, a space, its label. The dumps of one part lie in `images/PART/`, so the images of
`train800val200` are copies of the others and are compared with them by their bytes.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from moppa.data.archive import SUFFIXES, extract, file_names
from moppa.data.task import Task
from moppa.data.tfds import Example
from moppa.utils.errors import UserError

JOINED = "train800val200"


class Line(NamedTuple):
    """One line of a list: an image's path in the task's folder, and its class."""

    path: str
    label: int


@dataclass(frozen=True, kw_only=True)
class NoahSource:
    """The JPEG lineage. `dir` holds the tasks' folders or archives; `folders` says how each task's is called."""

    lineage: str
    dir: str
    cache: str
    collection: str
    folders: Mapping[str, str]

    def examples(self, task: Task, part: str) -> Iterator[Example]:
        """Yields train800, val200 or test in the list's order, scaled already and without names: numbers prove nothing.

        Raises:
            UserError: where the folder is absent or its four lists contradict each other.
        """
        folder = self.folder_of(task)
        lists = {name: read_list(folder, name) for name in ("train800", "val200", JOINED)}
        # a tuning run needs no test set, so its list may be absent until it is asked for
        if part == "test" or list_file(folder, "test").exists():
            lists["test"] = read_list(folder, "test")
        check_joined(folder, lists)
        check_apart(folder, lists)
        for line in lists[part]:
            yield Example(read_image(folder, line), line.label, None, is_scaled=True)

    def folder_of(self, task: Task) -> Path:
        """The task's folder, unpacked first where only an archive of it lies in `dir`."""
        if task.name not in self.folders:
            raise UserError(
                f"task {task.name} has no folder in data.folders ({', '.join(self.folders)}): add "
                f"+data.folders.{task.name}=FOLDER, or choose data=folder for images of your own"
            )
        name = self.folders[task.name]
        place = Path(self.dir).expanduser()
        folder = place / name
        if folder.is_dir():
            return folder
        archives = [f"{stem}{suffix}" for stem in (name, self.collection) for suffix in SUFFIXES]
        for archive in (place / one for one in archives):
            if archive.is_file():
                extract(archive, folder, below=task_folder_in(archive, name))
                return folder
        raise UserError(
            f"task {task.name}: neither a folder {name} nor {archives[0]} nor {self.collection}.zip in {place} "
            f"(data.dir={self.dir}); put one there, or make it from TFDS with: python scripts/as_noah_jpeg.py "
            f"task={task.name} data.dir=TFDS_FOLDER --out {self.dir}"
        )


def task_folder_in(archive: Path, name: str) -> str:
    """Where in the archive the task's lists lie: in a folder of its name, or at the top of an archive of its own."""
    lists = [PurePosixPath(one).parent for one in file_names(archive) if PurePosixPath(one).name == "train800.txt"]
    own = archive.name.partition(".")[0] == name
    found = [place for place in lists if place.name == name or (own and not place.name)]
    if not found:
        raise UserError(f"{archive} holds no {name}/train800.txt; it is not the archive of that task: replace it")
    return str(min(found, key=lambda place: len(place.parts)))


def list_file(folder: Path, part: str) -> Path:
    """Where a part's list lies."""
    return folder / f"{part}.txt"


def read_list(folder: Path, part: str) -> list[Line]:
    """The lines of a part's list; the paths stay in the folder."""
    file = list_file(folder, part)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file} cannot be read ({reason}); the folder is incomplete: get it again") from error
    return [parse(file, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def parse(file: Path, number: int, line: str) -> Line:
    """A line as path and label; the path may hold spaces."""
    path, _, label = line.strip().rpartition(" ")
    if not path or not label.isdecimal():
        raise UserError(f"{file} line {number}: {line!r} is not a path, a space and a label; get the folder again")
    place = PurePosixPath(path)
    if place.is_absolute() or ".." in place.parts:
        raise UserError(f"{file} line {number}: {path} leads out of the folder; get the folder again")
    return Line(str(place), int(label))


def read_image(folder: Path, line: Line) -> bytes:
    """The image of a line as it lies on disk."""
    try:
        return (folder / line.path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{folder / line.path} cannot be read ({error.strerror or error}); the folder is incomplete: get it again"
        ) from error


def check_joined(folder: Path, lists: Mapping[str, list[Line]]) -> None:
    """train800val200 holds the images and labels of train800 and val200, each as often as they do."""
    parts, joined = [*lists["train800"], *lists["val200"]], lists[JOINED]
    if Counter(parts) == Counter(joined):
        return
    mine, theirs = (Counter(content_of(folder, line) for line in lines) for lines in (parts, joined))
    if mine != theirs:
        raise UserError(
            f"{list_file(folder, JOINED)} is not train800.txt and val200.txt together: it lacks "
            f"{(mine - theirs).total()} of their {mine.total()} images and holds {(theirs - mine).total()} others; "
            f"the lists are of different splits: get the folder again"
        )


def content_of(folder: Path, line: Line) -> tuple[str, int]:
    """What makes two lines the same image: the sha256 of the file, and the label."""
    return hashlib.sha256(read_image(folder, line)).hexdigest(), line.label


def check_apart(folder: Path, lists: Mapping[str, list[Line]]) -> None:
    """No file stands twice in a list or in two of train800, val200 and test.

    By path, not by content: dSprites itself has equal pictures in its splits (a square turned by 90 degrees).
    """
    owner: dict[str, str] = {}
    for part in ("train800", "val200", "test"):
        for line in lists.get(part, []):
            if line.path in owner:
                raise UserError(
                    f"{list_file(folder, part)}: {line.path} stands in {owner[line.path]}.txt already; an image may "
                    f"be in one split only, once: get the folder again"
                )
            owner[line.path] = part
    for line in lists[JOINED]:
        if owner.get(line.path) == "test":
            raise UserError(f"{list_file(folder, JOINED)}: {line.path} is a test image; get the folder again")
