"""What of each task is at hand, and whether it is what the task's definition says: read from the store alone."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moppa.data.need import PARTS
from moppa.data.part import place_of, read_names, read_part
from moppa.data.task import Task, Verdict, prove
from moppa.errors import UserError

FOLDER = re.compile(rf"(?P<part>{'|'.join(PARTS)})-(?P<size>\d+)-(?P<interpolation>\w+)-[0-9a-f]{{8}}")


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What the store has of a task in one lineage, size and interpolation.

    `counts` is by part, None where it is absent; `verdict` is None until both training parts are there; `faults`
    says what differs or is damaged, one line each.
    """

    lineage: str
    size: int
    interpolation: str
    counts: dict[str, int | None]
    verdict: Verdict | None
    num_bytes: int
    faults: list[str]


def holdings(task: Task, store: str) -> list[Holding]:
    """All that a store has of a task, every image read again and held to its digest."""
    found: dict[tuple[str, int, str], dict[str, list[Path]]] = {}
    for folder in sorted(place_of(task, store).glob("*/*")):
        if named := FOLDER.fullmatch(folder.name):
            look = (folder.parent.name, int(named["size"]), named["interpolation"])
            found.setdefault(look, {}).setdefault(named["part"], []).append(folder)
    return [held(task, look, folders) for look, folders in sorted(found.items())]


def held(task: Task, look: tuple[str, int, str], folders: dict[str, list[Path]]) -> Holding:
    """One lineage, size and interpolation of a task, from its parts' folders."""
    counts: dict[str, int | None] = dict.fromkeys(PARTS)
    names: dict[str, Any] = {}
    faults = []
    for part, places in folders.items():
        for place in places:
            try:
                counts[part] = len(read_part(place, task, part).labels)
                names[part] = read_names(place, task, part)
            except UserError as error:
                faults.append(str(error))
    verdict: Verdict | None = None
    if {"train800", "val200"} <= set(names):
        try:
            verdict = prove(task, names["train800"], names["val200"])
        except UserError as error:
            verdict = "differs"
            faults.append(str(error))
    lineage, size, interpolation = look
    return Holding(
        lineage=lineage,
        size=size,
        interpolation=interpolation,
        counts=counts,
        verdict=verdict,
        num_bytes=sum(file.stat().st_size for places in folders.values() for at in places for file in at.iterdir()),
        faults=faults,
    )
