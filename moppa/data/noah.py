"""Reads the folders of NOAH (Zhang et al., arXiv 2206.04673) and V-PETL Bench: JPEG dumps of the VTAB-1K images.

The folder of a task holds `images/` and four lists: `train800.txt`, `val200.txt`, `train800val200.txt`, `test.txt`.
Each line of a list has the path of an image in the folder, a space, and its label. The images of a list are in
`images/LIST/`, so those of train800val200 are copies and are compared with the others by their bytes.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

from moppa.data.archive import SUFFIXES, extract, file_names
from moppa.data.file_digests import digest_lines, file_digests
from moppa.data.remote import fetch
from moppa.data.source import Example
from moppa.data.split import memory_file
from moppa.data.task import SPLITS, Task
from moppa.utils.errors import SettingError, UserError
from moppa.utils.paths import user_path

JOINED = "train800val200"


class Line(NamedTuple):
    """One line of a list: the path of an image in the task's folder, and its label."""

    path: str
    label: int


@dataclass(frozen=True, kw_only=True)
class NoahSource:
    """The JPEG lineage.

    `dir` holds the folders or archives of the tasks. `folders` maps each task to the name of its folder; `collection`
    is the name of the archive of all tasks. `url` is an archive that is copied to `dir` if that has none, and
    `sha256` its digest.
    """

    lineage: ClassVar[str] = "noah_jpeg"
    is_reencoded: ClassVar[bool] = True

    name: str
    dir: str
    cache: str
    collection: str
    folders: Mapping[str, str]
    url: str | None = None  # records from before this setting do not have it
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.url is not None and not (isinstance(self.url, str) and self.url.endswith(SUFFIXES)):
            raise SettingError("url", f"={self.url}: it must be the address of a {', '.join(SUFFIXES)} file")
        if self.url is not None and not re.fullmatch("[0-9a-fA-F]{64}", str(self.sha256)):
            raise SettingError("sha256", f"={self.sha256}: give the 64 hex digits of the sha256 of data.url={self.url}")

    def examples(self, task: Task, split: str) -> Iterator[Example]:
        """Yields the examples of train800, val200 or test in the order of the list.

        They have no names, because the file names are numbers that prove nothing, and their pixels are scaled already.

        Raises:
            UserError: if the folder is absent or its four lists contradict each other.
        """
        folder = self.task_folder(task)
        lists = {name: read_list(folder, name) for name in ("train800", "val200", JOINED)}
        # a tuning run does not need the test set, so its list may be absent
        if split == "test" or list_file(folder, "test").exists():
            lists["test"] = read_list(folder, "test")
        check_joined(folder, lists)
        check_disjoint(folder, lists)
        for line in lists[split]:
            yield Example(read_image(folder, line), line.label, None, is_scaled=True, file=folder / line.path)

    def content(self, task: Task, split: str) -> str:
        """Returns the sha256 of the labels and files of a split, in order."""
        folder = self.task_folder(task)
        lines = read_list(folder, split)
        memory = memory_file(task, split, self.cache, self.lineage, folder)
        digests = file_digests([folder / line.path for line in lines], memory)
        return digest_lines([f"{line.label}\0{digest}" for line, digest in zip(lines, digests, strict=True)])

    def task_folder(self, task: Task) -> Path:
        """Returns the folder of a task, and first unpacks its archive if `dir` holds only that."""
        if task.name not in self.folders:
            raise UserError(
                f"task {task.name} has no folder in data.folders ({', '.join(self.folders)}): add "
                f"+data.folders.{task.name}=FOLDER, or choose data=folder for images of your own"
            )
        name = self.folders[task.name]
        root = user_path(self.dir)
        folder = root / name
        if folder.is_dir():
            return folder
        archives = [root / f"{stem}{suffix}" for stem in (name, self.collection) for suffix in SUFFIXES]
        for archive in archives:
            if archive.is_file():
                extract(archive, folder, below=folder_in_archive(archive, name))
                return folder
        if self.url is not None:
            archive = root / self.url.rpartition("/")[2]
            try:
                fetch("data.url", self.url, archive, sha256=self.sha256)
            except FileNotFoundError as error:
                raise UserError(f"data.url={self.url}: there is no such file; correct the address") from error
            extract(archive, folder, below=folder_in_archive(archive, name))
            return folder
        raise UserError(
            f"task {task.name}: neither a folder {name} nor {archives[0].name} nor {self.collection}.zip in {root} "
            f"(data.dir={self.dir}); put one there, or make it from TFDS with: moppa data noah-jpeg "
            f"task={task.name} data.dir=TFDS_FOLDER --out {self.dir}, or copy an archive: data.url=URL "
            f"data.sha256=DIGEST"
        )


def folder_in_archive(archive: Path, name: str) -> str:
    """Returns the folder with the task's lists: one called `name`, or the top of an archive called `name`."""
    paths = [PurePosixPath(path) for path in file_names(archive)]
    folders = [path.parent for path in paths if path.name == "train800.txt"]
    is_own_archive = archive.name.partition(".")[0] == name
    matching = [folder for folder in folders if folder.name == name or (is_own_archive and not folder.name)]
    if not matching:
        raise UserError(f"{archive} holds no {name}/train800.txt; it is not the archive of that task: replace it")
    return str(min(matching, key=lambda folder: len(folder.parts)))


def list_file(folder: Path, split: str) -> Path:
    """Returns the path of a split's list."""
    return folder / f"{split}.txt"


def read_list(folder: Path, split: str) -> list[Line]:
    """Returns the lines of a split's list; all paths are inside of the folder."""
    file = list_file(folder, split)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file} cannot be read ({reason}); the folder is incomplete: get it again") from error
    return [parse_line(file, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def parse_line(file: Path, number: int, line: str) -> Line:
    """Returns a line as path and label. The path may contain spaces."""
    path, _, label = line.strip().rpartition(" ")
    if not path or not label.isdecimal():
        raise UserError(f"{file} line {number}: {line!r} is not a path, a space and a label; get the folder again")
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts:
        raise UserError(f"{file} line {number}: {path} leads out of the folder; get the folder again")
    return Line(str(relative), int(label))


def read_image(folder: Path, line: Line) -> bytes:
    """Returns the encoded image of a line."""
    try:
        return (folder / line.path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{folder / line.path} cannot be read ({error.strerror or error}); the folder is incomplete: get it again"
        ) from error


def check_joined(folder: Path, lists: Mapping[str, list[Line]]) -> None:
    """Raises `UserError` unless train800val200 holds the images and labels of train800 and val200, equally often."""
    separate, joined = [*lists["train800"], *lists["val200"]], lists[JOINED]
    if Counter(separate) == Counter(joined):
        return
    expected, actual = (Counter(content(folder, line) for line in lines) for lines in (separate, joined))
    if expected != actual:
        raise UserError(
            f"{list_file(folder, JOINED)} is not train800.txt and val200.txt together: it lacks "
            f"{(expected - actual).total()} of their {expected.total()} images and holds {(actual - expected).total()} "
            f"others; the lists are of different splits: get the folder again"
        )


def content(folder: Path, line: Line) -> tuple[str, int]:
    """Returns what makes two lines the same image: the sha256 of the file, and the label."""
    return hashlib.sha256(read_image(folder, line)).hexdigest(), line.label


def check_disjoint(folder: Path, lists: Mapping[str, list[Line]]) -> None:
    """Raises `UserError` if a path appears twice in a list or in two of train800, val200 and test.

    Compares paths, not contents: dSprites itself has equal images in its splits (a square rotated by 90 degrees).
    """
    split_by_path: dict[str, str] = {}
    for split in SPLITS:
        for line in lists.get(split, []):
            if line.path in split_by_path:
                raise UserError(
                    f"{list_file(folder, split)}: {line.path} is in {split_by_path[line.path]}.txt already; an image "
                    f"may be in one split only, once: get the folder again"
                )
            split_by_path[line.path] = split
    for line in lists[JOINED]:
        if split_by_path.get(line.path) == "test":
            raise UserError(f"{list_file(folder, JOINED)}: {line.path} is a test image; get the folder again")
