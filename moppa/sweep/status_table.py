"""The status of a sweep as the terminal shows it: a table of methods and tasks."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from moppa.sweep.status import NAMES, Name, State, cell_state

SUFFIXES = (".json", ".failed", ".lease")
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
    """One cell of a sweep: its coordinates, and the paths of its record and checkpoint."""

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


CellStates = Sequence[tuple[CellFiles, State]]


def find_cells(results: Path) -> list[CellFiles]:
    """Returns every cell that has a record, a failure, a lease or a checkpoint under `results`, by its path alone."""
    records, checkpoints = results / "records", results / "checkpoints"
    stems = {path.relative_to(records).with_suffix("") for path in cell_files(records, SUFFIXES)}
    stems |= {path.relative_to(checkpoints).with_suffix("") for path in cell_files(checkpoints, (".pt",))}
    return [
        CellFiles(
            suite=stem.parts[0],
            backbone=stem.parts[1],
            task="/".join(stem.parts[2:-3]),
            method=stem.parts[-3],
            record=records / stem.with_suffix(".json"),
            checkpoint=checkpoints / stem.with_suffix(".pt"),
        )
        for stem in sorted(stems)
        if len(stem.parts) >= 6
    ]


def cell_files(folder: Path, suffixes: Sequence[str]) -> Iterable[Path]:
    """Yields the files of cells with these suffixes, without temporary ones."""
    return (path for path in folder.rglob("seed*") if path.suffix in suffixes)


def cell_states(cells: Iterable[CellFiles], versions: Mapping[str, str] | None) -> list[tuple[CellFiles, State]]:
    """Returns each cell with its state."""
    return [(cell, cell_state(cell.record, cell.checkpoint, versions)) for cell in cells]


def status_view(states: CellStates, *, num_failures: int) -> Group:
    """Returns one table per suite and backbone, the counts, and the last line of up to `num_failures` failures."""
    tables: dict[str, list[tuple[CellFiles, State]]] = {}
    for cell, state in states:
        tables.setdefault(f"{cell.suite}, {cell.backbone}", []).append((cell, state))
    failed = [(cell, state) for cell, state in states if state.name == "failed"]
    lines = [Text(f"failed: {cell.name}: {state.note}", style="red") for cell, state in failed[:num_failures]]
    if len(failed) > num_failures:
        lines.append(Text(f"and {len(failed) - num_failures} more failures", style="red"))
    counts = counts_line([state for _, state in states])
    return Group(*(status_table(title, cells) for title, cells in tables.items()), counts, *lines)


def status_table(title: str, states: CellStates) -> Table:
    """Returns a table with a row per method and a column per task, which counts the cells by state."""
    tasks = sorted({cell.task for cell, _ in states})
    methods = sorted({cell.method for cell, _ in states})
    counts: dict[tuple[str, str], Counter[Name]] = {}
    for cell, state in states:
        counts.setdefault((cell.method, cell.task), Counter())[state.name] += 1
    table = Table(title=title)
    table.add_column("method")
    for task in tasks:
        table.add_column(task, justify="right", overflow="fold")
    for method in methods:
        table.add_row(method, *(counts_text(counts.get((method, task), Counter())) for task in tasks))
    return table


def counts_text(counts: Mapping[Name, int]) -> Text:
    """Returns "done/total", then the count and the initial of each state between done and missing."""
    total, num_done = sum(counts.values()), counts.get("done", 0)
    if not total:
        return Text("")
    text = Text(f"{num_done}/{total}", style=COLORS["done"] if num_done == total else "")
    for name in NAMES[1:-1]:
        if counts.get(name):
            text.append(f" {counts[name]}{name[0]}", style=COLORS[name])
    return text


def counts_line(states: Sequence[State]) -> Text:
    """Returns the number of cells in each state. Its words explain the initials in the table."""
    counts = Counter(state.name for state in states)
    text = Text(f"{len(states)} cells: ")
    for index, name in enumerate(NAMES):
        text.append(f"{', ' if index else ''}{counts[name]} {name}", style=COLORS[name] if counts[name] else "dim")
    return text
