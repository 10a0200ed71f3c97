"""The grid method x task of a sweep, as the terminal shows it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from moppa.sweep.status import NAMES, Name, State, cell_state

COLORS: dict[Name, str] = {
    "done": "green",
    "stale": "yellow",
    "running": "cyan",
    "resumable": "blue",
    "failed": "red",
    "missing": "dim",
}


@dataclass(frozen=True, kw_only=True)
class CellFiles:
    """One cell of a sweep: where it belongs, and where its files are."""

    suite: str
    backbone: str
    task: str
    method: str
    record: Path
    checkpoint: Path

    @property
    def name(self) -> str:
        """The cell in words."""
        return f"{self.backbone} {self.method} {self.task} {self.record.parent.name} {self.record.stem}"


def find_cells(results: Path) -> list[CellFiles]:
    """Every cell of which there is a record, a failure, a claim or a checkpoint, by its path alone."""
    places = {path.relative_to(results / "records").with_suffix("") for path in files(results / "records", SUFFIXES)}
    places |= {
        path.relative_to(results / "checkpoints").with_suffix("") for path in files(results / "checkpoints", (".pt",))
    }
    return [
        CellFiles(
            suite=place.parts[0],
            backbone=place.parts[1],
            task="/".join(place.parts[2:-3]),
            method=place.parts[-3],
            record=results / "records" / place.with_suffix(".json"),
            checkpoint=results / "checkpoints" / place.with_suffix(".pt"),
        )
        for place in sorted(places)
        if len(place.parts) >= 6
    ]


SUFFIXES = (".json", ".failed", ".claim")


def files(folder: Path, suffixes: Sequence[str]) -> Iterable[Path]:
    """The files of cells, temporary ones left out."""
    return (path for path in folder.rglob("seed*") if path.suffix in suffixes)


def cell_states(entries: Iterable[CellFiles], versions: Mapping[str, str] | None) -> list[tuple[CellFiles, State]]:
    """Each cell with how far it is."""
    return [(entry, cell_state(entry.record, entry.checkpoint, versions)) for entry in entries]


def status_view(states: Sequence[tuple[CellFiles, State]], *, num_failures: int) -> Group:
    """One grid for each suite, backbone and protocol, the counts, and the failures with their last line."""
    grids: dict[str, list[tuple[CellFiles, State]]] = {}
    for entry, state in states:
        grids.setdefault(f"{entry.suite}, {entry.backbone}", []).append((entry, state))
    failed = [(entry, state) for entry, state in states if state.name == "failed"]
    lines = [Text(f"failed: {entry.name}: {state.note}", style="red") for entry, state in failed[:num_failures]]
    if len(failed) > num_failures:
        lines.append(Text(f"and {len(failed) - num_failures} failures more", style="red"))
    return Group(*(grid(title, cells) for title, cells in grids.items()), counts_line(states), *lines)


def grid(title: str, states: Sequence[tuple[CellFiles, State]]) -> Table:
    """Methods down, tasks across; in each place how many cells are done, and what the others are."""
    tasks = sorted({entry.task for entry, _ in states})
    methods = sorted({entry.method for entry, _ in states})
    places: dict[tuple[str, str], Counter[Name]] = {}
    for entry, state in states:
        places.setdefault((entry.method, entry.task), Counter())[state.name] += 1
    table = Table(title=title)
    table.add_column("method")
    for task in tasks:
        table.add_column(task, justify="right", overflow="fold")
    for method in methods:
        table.add_row(method, *(place_text(places.get((method, task), Counter())) for task in tasks))
    return table


def place_text(counts: Mapping[Name, int]) -> Text:
    """Done of all, and a letter for what is not."""
    total, done = sum(counts.values()), counts.get("done", 0)
    if not total:
        return Text("")
    text = Text(f"{done}/{total}", style=COLORS["done"] if done == total else "")
    for name in NAMES[1:-1]:
        if counts.get(name):
            text.append(f" {counts[name]}{name[0]}", style=COLORS[name])
    return text


def counts_line(states: Sequence[tuple[Any, State]]) -> Text:
    """How many cells are in which state; its initials explain the letters of the grid."""
    counts = Counter(state.name for _, state in states)
    text = Text(f"{len(states)} cells: ")
    for index, name in enumerate(NAMES):
        text.append(f"{', ' if index else ''}{counts[name]} {name}", style=COLORS[name] if counts[name] else "dim")
    return text
