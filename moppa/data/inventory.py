"""Lists the cached splits of a task and checks each against the task's definition."""

import re
from dataclasses import dataclass
from pathlib import Path

from moppa.data.split import read_names, read_split, task_folder
from moppa.data.task import SPLITS, SplitCheck, Task, check_split
from moppa.utils.errors import UserError

FOLDER = re.compile(rf"(?P<split>{'|'.join(SPLITS)})-(?P<size>\d+)-(?P<interpolation>\w+)-[0-9a-f]{{8}}")

Variant = tuple[str, int, str]  # lineage, size, interpolation


@dataclass(frozen=True, kw_only=True)
class CachedTask:
    """The cached splits of a task in one lineage, size and interpolation.

    `num_images` is by split, None if the split is absent. `split_check` is None unless both training splits are
    there. `faults` has one line for each difference and each damaged folder.
    """

    lineage: str
    size: int
    interpolation: str
    num_images: dict[str, int | None]
    split_check: SplitCheck | None
    num_bytes: int
    faults: list[str]


def cached_tasks(task: Task, cache: str) -> list[CachedTask]:
    """Returns everything that a cache holds of a task. Every image is read and compared with its digest."""
    folders: dict[Variant, dict[str, list[Path]]] = {}
    for folder in sorted(task_folder(task, cache).glob("*/*")):
        if match := FOLDER.fullmatch(folder.name):
            variant = (folder.parent.name, int(match["size"]), match["interpolation"])
            folders.setdefault(variant, {}).setdefault(match["split"], []).append(folder)
    return [cached_task(task, variant, of_variant) for variant, of_variant in sorted(folders.items())]


def cached_task(task: Task, variant: Variant, folders: dict[str, list[Path]]) -> CachedTask:
    """Returns the check of one variant of a task, from the folders of its splits."""
    num_images: dict[str, int | None] = dict.fromkeys(SPLITS)
    names: dict[str, list[str] | None] = {}
    faults: list[str] = []
    for split, folder in [(split, folder) for split, of_split in folders.items() for folder in of_split]:
        try:
            num_images[split] = len(read_split(folder, task, split).labels)
            names[split] = read_names(folder, task, split)
        except UserError as error:
            faults.append(str(error))
    split_check: SplitCheck | None = None
    if {"train800", "val200"} <= set(names):
        try:
            split_check = check_split(task, names["train800"], names["val200"])
        except UserError as error:
            split_check = "differs"
            faults.append(str(error))
    lineage, size, interpolation = variant
    files = [file for of_split in folders.values() for folder in of_split for file in folder.iterdir()]
    return CachedTask(
        lineage=lineage,
        size=size,
        interpolation=interpolation,
        num_images=num_images,
        split_check=split_check,
        num_bytes=sum(file.stat().st_size for file in files),
        faults=faults,
    )
