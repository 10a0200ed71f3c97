"""Lists the cached splits of a task and checks each against the task's definition."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from moppa.data.check import check_test_folder, find_shared_images
from moppa.data.noah import NoahSource
from moppa.data.split import FORMAT, read_decoded, read_json, read_names, read_split, task_folder
from moppa.data.task import SPLITS, Task, check_split
from moppa.utils.errors import UserError

FOLDER = re.compile(
    rf"(?P<split>{'|'.join(SPLITS)})-(?P<size>\d+)-(?P<interpolation>\w+)-[0-9a-f]{{8}}(-[0-9a-f]{{16}})?"
)

Variant = tuple[str, int, str]  # lineage, size, interpolation


@dataclass(frozen=True, kw_only=True)
class CachedTask:
    """The cached splits of a task in one lineage, size and interpolation.

    `num_images` is by split, None if the split is absent. `split_check` and `test_check` are None unless both training
    splits, and the test split, are there. `shared_images` counts the images that are in two splits. `faults` has one
    line for each difference and each damaged folder.
    """

    lineage: str
    size: int
    interpolation: str
    num_images: dict[str, int | None]
    split_check: str | None
    test_check: str | None
    shared_images: dict[str, int]
    num_bytes: int
    faults: list[str]


def cached_tasks(task: Task, cache: str) -> list[CachedTask]:
    """Returns everything that a cache holds of a task. Every image is read and compared with its digest."""
    folders: dict[Variant, dict[str, list[Path]]] = {}
    for folder in split_folders(task, cache):
        if is_current(folder) and (match := FOLDER.fullmatch(folder.name)):
            variant = (folder.parent.name, int(match["size"]), match["interpolation"])
            folders.setdefault(variant, {}).setdefault(match["split"], []).append(folder)
    return [cached_task(task, variant, of_variant) for variant, of_variant in sorted(folders.items())]


def split_folders(task: Task, cache: str) -> list[Path]:
    """Returns the folders of all splits of a task in a cache."""
    return [folder for folder in sorted(task_folder(task, cache).glob("*/*")) if FOLDER.fullmatch(folder.name)]


def is_current(folder: Path) -> bool:
    """Returns whether a folder was written in today's format, or is damaged. An older one is never read."""
    try:
        return read_json(folder / "manifest.json").get("format", FORMAT) == FORMAT
    except (UserError, AttributeError):
        return True


def cached_task(task: Task, variant: Variant, folders: dict[str, list[Path]]) -> CachedTask:
    """Returns the check of one variant of a task, from the folders of its splits."""
    num_images: dict[str, int | None] = dict.fromkeys(SPLITS)
    names: dict[str, list[str] | None] = {}
    intact: dict[str, Path] = {}  # the last one, if the user's files changed and there are several of a split
    faults: list[str] = []
    for split, folder in [
        (split, folder) for split, of_split in folders.items() for folder in sorted(of_split, key=age)
    ]:
        try:
            num_images[split] = len(read_split(folder, task, split).labels)
            names[split] = read_names(folder, task, split)
            read_decoded(folder, task, split)
            intact[split] = folder
        except UserError as error:
            faults.append(str(error))
    split_check = test_check = None
    if {"train800", "val200"} <= set(names):
        split_check = checked(lambda: check_split(task, names["train800"], names["val200"]), faults)
    if "test" in intact:
        compares_pixels = variant[0] != NoahSource.lineage
        test = partial(check_test_folder, task, intact["test"], compares_pixels=compares_pixels)
        test_check = checked(lambda: test()[0], faults)
    lineage, size, interpolation = variant
    files = [file for of_split in folders.values() for folder in of_split for file in folder.iterdir()]
    return CachedTask(
        lineage=lineage,
        size=size,
        interpolation=interpolation,
        num_images=num_images,
        split_check=split_check,
        test_check=test_check,
        shared_images={shared.pair: len(shared.indices) for shared in find_shared_images(task, intact)},
        num_bytes=sum(file.stat().st_size for file in files),
        faults=faults,
    )


def checked(check: Callable[[], str], faults: list[str]) -> str:
    """Returns the result of a check, or `differs` after adding what it raised to `faults`."""
    try:
        return check()
    except UserError as error:
        faults.append(str(error))
        return "differs"


def age(folder: Path) -> float:
    """Returns the time at which a folder was written, so that older ones sort first."""
    return folder.stat().st_mtime
