"""What of each task is at hand, and whether it is what the task's definition says: read from the store alone."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moppa.data.disk_space import SPLITS
from moppa.data.split import read_names, read_split, task_folder
from moppa.data.task import SplitCheck, Task, check_split
from moppa.utils.errors import UserError

FOLDER = re.compile(rf"(?P<part>{'|'.join(SPLITS)})-(?P<size>\d+)-(?P<interpolation>\w+)-[0-9a-f]{{8}}")


@dataclass(frozen=True, kw_only=True)
class CachedTask:
    """What the store has of a task in one lineage, size and interpolation.

    `counts` is by part, None where it is absent; `verdict` is None until both training parts are there; `faults`
    says what differs or is damaged, one line each.
    """

    lineage: str
    size: int
    interpolation: str
    counts: dict[str, int | None]
    verdict: SplitCheck | None
    num_bytes: int
    faults: list[str]


def cached_tasks(task: Task, store: str) -> list[CachedTask]:
    """All that a store has of a task, every image read again and held to its digest."""
    found: dict[tuple[str, int, str], dict[str, list[Path]]] = {}
    for folder in sorted(task_folder(task, store).glob("*/*")):
        if named := FOLDER.fullmatch(folder.name):
            look = (folder.parent.name, int(named["size"]), named["interpolation"])
            found.setdefault(look, {}).setdefault(named["part"], []).append(folder)
    return [cached_task(task, look, folders) for look, folders in sorted(found.items())]


def cached_task(task: Task, look: tuple[str, int, str], folders: dict[str, list[Path]]) -> CachedTask:
    """One lineage, size and interpolation of a task, from its parts' folders."""
    counts: dict[str, int | None] = dict.fromkeys(SPLITS)
    names: dict[str, Any] = {}
    faults = []
    for part, places in folders.items():
        for place in places:
            try:
                counts[part] = len(read_split(place, task, part).labels)
                names[part] = read_names(place, task, part)
            except UserError as error:
                faults.append(str(error))
    verdict: SplitCheck | None = None
    if {"train800", "val200"} <= set(names):
        try:
            verdict = check_split(task, names["train800"], names["val200"])
        except UserError as error:
            verdict = "differs"
            faults.append(str(error))
    lineage, size, interpolation = look
    return CachedTask(
        lineage=lineage,
        size=size,
        interpolation=interpolation,
        counts=counts,
        verdict=verdict,
        num_bytes=sum(file.stat().st_size for places in folders.values() for at in places for file in at.iterdir()),
        faults=faults,
    )
