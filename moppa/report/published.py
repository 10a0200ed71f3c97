"""Published rows, to be set beside ours: facts with their source, means recomputed from the cells, known traps flagged.

`results/published.csv` has one line a published row: the method's name there and ours (`method`), the family of the
pretraining and the checkpoint where it is known (timm's name), how the epoch was selected (`last_epoch`,
`best_on_test`), the data lineage, the normalization, parameters in millions, 19 cells, means as printed, a note, the
source. What is not known is empty. Accuracies are in percent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from moppa.utils.errors import UserError

FLAGS = {
    "B": "best epoch chosen on the test set",
    "J": "JPEG lineage",
    "C": "another checkpoint",
    "N": "inputs not normalized as the checkpoint asks",
    "M": "a mean is printed that its cells do not give",
}
# The normalization that the checkpoints of a family were trained with.
OWN_NORMALIZATION = {"in21k": "half", "mae": "imagenet"}
MEANS = ("natural", "specialized", "structured", "groups", "19")
GROUPS = MEANS[:3]
ROUNDING = 0.1 + 1e-9  # a mean printed to one decimal, of numbers printed to one decimal


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published row; `means` are recomputed from cells where all are there, `printed` are the source's own."""

    name: str
    method: str
    pretraining: str
    checkpoint: str
    selection: str
    lineage: str
    normalization: str
    params_m: float | None
    cells: Mapping[str, float] = field(repr=False)
    printed: Mapping[str, float] = field(repr=False)
    means: Mapping[str, float] = field(repr=False)
    note: str
    source: str

    @cached_property
    def misprints(self) -> dict[str, tuple[float, float]]:
        """The means whose printed value its cells do not give: printed, recomputed."""
        return {
            name: (value, self.means[name])
            for name, value in self.printed.items()
            if name in self.means and abs(value - self.means[name]) > ROUNDING
        }

    @property
    def mean_of_groups(self) -> float | None:
        """Recomputed from the cells; where they are not all printed, as printed, unless that is a known misprint."""
        from_cells = all(group in self.means for group in GROUPS)
        if from_cells or "misprint" in self.note or "groups" not in self.printed:
            return self.means.get("groups")
        return self.printed["groups"]

    def flags(self, checkpoint: str) -> str:
        """What makes it incomparable with an honest row on a checkpoint (timm's name), as letters of `FLAGS`."""
        own = OWN_NORMALIZATION[self.pretraining]
        raised = {
            "B": self.selection == "best_on_test",
            "J": self.lineage == "noah_jpeg",
            "C": bool(self.checkpoint) and self.checkpoint != checkpoint,
            "N": bool(self.normalization) and self.normalization != own,
            "M": bool(self.misprints) or "misprint" in self.note,
        }
        return "".join(letter for letter, is_raised in raised.items() if is_raised)


def load(path: Path, groups: Mapping[str, Sequence[str]]) -> list[Published]:
    """The rows of a file like `results/published.csv`; none where there is no such file.

    Args:
        path: the file.
        groups: the tasks of each group, which its cells are columns of.
    """
    if not path.exists():
        return []
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        tasks = [task for members in groups.values() for task in members]
        columns = [*tasks, *(f"printed_{name}" for name in MEANS), "params_m"]
        numbers = frame[columns].map(lambda text: float(text or "nan")).astype(float)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{path} is not a table of published rows: {error}; see its first line for its columns"
        ) from error
    return [published(frame.iloc[index], numbers.iloc[index], groups) for index in range(len(frame))]


def published(text: pd.Series, numbers: pd.Series, groups: Mapping[str, Sequence[str]]) -> Published:
    """One line of the file."""
    known = numbers.dropna()
    cells = {task: float(known[task]) for members in groups.values() for task in members if task in known}
    printed = {name: float(known[f"printed_{name}"]) for name in MEANS if f"printed_{name}" in known}
    return Published(
        name=text["row"],
        **{name: text[name] for name in ("method", "pretraining", "checkpoint", "selection", "lineage")},
        normalization=text["normalization"],
        params_m=float(known["params_m"]) if "params_m" in known else None,
        cells=cells,
        printed=printed,
        means=recomputed(cells, printed, groups),
        note=text["note"],
        source=text["source"],
    )


def recomputed(
    cells: Mapping[str, float], printed: Mapping[str, float], groups: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """The means that cells give; the mean of groups from the printed group means where there are no cells."""
    means = {
        group: sum(cells[task] for task in tasks) / len(tasks)
        for group, tasks in groups.items()
        if all(task in cells for task in tasks)
    }
    parts = means if all(group in means for group in GROUPS) else printed
    if all(group in parts for group in GROUPS):
        means["groups"] = sum(parts[group] for group in GROUPS) / len(GROUPS)
    if len(cells) == sum(map(len, groups.values())):
        means["19"] = sum(cells.values()) / len(cells)
    return means


def for_checkpoint(rows: Sequence[Published], checkpoint: str) -> list[Published]:
    """The rows of the same pretraining as a checkpoint (timm's name)."""
    families = {row.pretraining for row in rows if row.checkpoint == checkpoint}
    return [row for row in rows if row.pretraining in families]


def paper_row(rows: Sequence[Published], method: str) -> Published | None:
    """What a method's papers print: the first row that is no re-run and has a mean of groups."""
    return next((row for row in of_method(rows, method) if not row.name.endswith(RERUN)), None)


def honest_row(rows: Sequence[Published], method: str) -> Published | None:
    """The method's row that was tuned on val200 and read after the last epoch."""
    return next((row for row in of_method(rows, method) if row.selection == "last_epoch"), None)


def of_method(rows: Sequence[Published], method: str) -> list[Published]:
    """A method's rows that have a mean of groups, in the file's order."""
    return [row for row in rows if row.method == method and row.mean_of_groups is not None]


RERUN = ("(OSU)", "(OSU, best on test)")
