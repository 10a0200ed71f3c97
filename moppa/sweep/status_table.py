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
MARKS: dict[Name, str] = {"stale": "s", "running": "r", "resumable": "c", "failed": "f"}  # c: it has a checkpoint
WIDTH = 80  # of a terminal that does not tell
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


def status_view(states: CellStates, *, num_failures: int, width: int = WIDTH) -> Group:
    """Returns the tables of each suite and backbone, the counts, and the last line of up to `num_failures` failures.

    A table that is wider than `width` is continued in another one.
    """
    tables: dict[str, list[tuple[CellFiles, State]]] = {}
    for cell, state in states:
        tables.setdefault(f"{cell.suite}, {cell.backbone}", []).append((cell, state))
    failed = [(cell, state) for cell, state in states if state.name == "failed"]
    lines = [Text(f"failed: {cell.name}: {state.note}", style="red") for cell, state in failed[:num_failures]]
    if len(failed) > num_failures:
        lines.append(Text(f"and {len(failed) - num_failures} more failures", style="red"))
    counts = counts_line([state for _, state in states])
    parts = [part for title, cells in tables.items() for part in status_tables(title, cells, width)]
    return Group(*parts, counts, *legend(states), *lines)


def legend(states: CellStates) -> list[Text]:
    """Returns the line that explains the letters in the tables; none if there are no letters."""
    names = {state.name for _, state in states}
    used = [f"{mark} {name}" for name, mark in MARKS.items() if name in names]
    return [Text(", ".join(used), style="dim")] if used else []


def status_tables(title: str, states: CellStates, width: int) -> list[Table]:
    """Returns tables that count the cells by state, with a row per method and a column per task, or the other way.

    The way that needs fewer tables of this width is taken.
    """
    counts: dict[tuple[str, str], Counter[Name]] = {}
    for cell, state in states:
        counts.setdefault((cell.method, cell.task), Counter())[state.name] += 1
    methods, tasks = (sorted({names[axis] for names in counts}) for axis in (0, 1))
    by_method = {pair: counts_text(count) for pair, count in counts.items()}
    by_task = {(task, method): text for (method, task), text in by_method.items()}
    both = [
        continued_tables(title, "method", methods, tasks, by_method, width),
        continued_tables(title, "task", tasks, methods, by_task, width),
    ]
    return min(both, key=len)


def continued_tables(
    title: str,
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Mapping[tuple[str, str], Text],
    width: int,
) -> list[Table]:
    """Returns one table, or several with a part of the columns each, so that none is wider than `width`."""
    border = 3  # a line, and a space on both sides of each column
    widths = [border + max(len(column), *(len(texts.get((row, column), "")) for row in rows)) for column in columns]
    free = width - border - 1 - max(map(len, (corner, *rows)))
    parts: list[list[str]] = []
    remaining = free
    for column, needed in zip(columns, widths, strict=True):
        if not parts or needed > remaining:
            parts.append([])
            remaining = free
        parts[-1].append(column)
        remaining -= needed
    tables = []
    for part in parts:
        table = Table(corner, title=None if tables else title)
        for column in part:
            table.add_column(column, justify="right", overflow="fold")
        for row in rows:
            table.add_row(row, *(texts.get((row, column), Text("")) for column in part))
        tables.append(table)
    return tables


def counts_text(counts: Mapping[Name, int]) -> Text:
    """Returns "done/total", then the count and the mark of each state between done and missing."""
    total, num_done = sum(counts.values()), counts.get("done", 0)
    if not total:
        return Text("")
    text = Text(f"{num_done}/{total}", style=COLORS["done"] if num_done == total else "")
    for name in NAMES[1:-1]:
        if counts.get(name):
            text.append(f" {counts[name]}{MARKS[name]}", style=COLORS[name])
    return text


def counts_line(states: Sequence[State]) -> Text:
    """Returns the number of cells in each state."""
    counts = Counter(state.name for state in states)
    text = Text(f"{len(states)} cells: ")
    for index, name in enumerate(NAMES):
        text.append(f"{', ' if index else ''}{counts[name]} {name}", style=COLORS[name] if counts[name] else "dim")
    return text
