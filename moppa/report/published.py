"""Published rows: accuracies with their sources, means recomputed from them, and flags for known incompatibilities.

`results/published.csv` has one line for each published row: its suite, its name in the source, our name of the method,
the study that ran it again (empty for a method's own paper), the family of the pretraining, timm's name of the
checkpoint, how the epoch was selected (`last_epoch`, `best_on_test`), data lineage, normalization, parameters in
millions, the accuracy on each task in percent, means as printed, a note and the source. Unknown values are empty.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from moppa.data.task import GROUPS
from moppa.report.aggregate import mean
from moppa.report.columns import suite_columns, task_groups
from moppa.utils.errors import UserError

FLAGS = {
    "B": "the best epoch was chosen on the test set",
    "J": "JPEG lineage",
    "C": "another checkpoint",
    "N": "inputs are not normalized as the checkpoint requires",
    "M": "a printed mean is not the mean of its cells",
}
# The normalization that the checkpoints of a family were trained with.
FAMILY_NORMALIZATION = {"in21k": "half", "mae": "imagenet"}
MEANS = (*GROUPS, "groups", "tasks")
ROUNDING = Fraction("0.1")  # a mean printed to one decimal, of numbers printed to one decimal


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published row: accuracies by task, means as `printed`, and `means` recomputed from complete accuracies."""

    name: str
    method: str
    study: str
    pretraining: str
    checkpoint: str
    selection: str
    lineage: str
    normalization: str
    params_m: Fraction | None
    accuracies: Mapping[str, Fraction] = field(repr=False)
    printed: Mapping[str, Fraction] = field(repr=False)
    means: Mapping[str, Fraction] = field(repr=False)
    note: str
    source: str

    @cached_property
    def misprints(self) -> dict[str, tuple[Fraction, Fraction]]:
        """The printed means that differ from the recomputed ones: (printed, recomputed)."""
        return {
            name: (value, self.means[name])
            for name, value in self.printed.items()
            if name in self.means and abs(value - self.means[name]) > ROUNDING
        }

    @property
    def mean_of_groups(self) -> Fraction | None:
        """The mean of the group means: recomputed if possible, else as printed, unless that is a known misprint."""
        is_recomputed = all(group in self.means for group in GROUPS)
        if is_recomputed or "misprint" in self.note or "groups" not in self.printed:
            return self.means.get("groups")
        return self.printed["groups"]

    def flags(self, checkpoint: str) -> str:
        """Returns the letters of `FLAGS` that make it incomparable with our rows on a checkpoint (timm's name)."""
        raised = {
            "B": self.selection == "best_on_test",
            "J": self.lineage == "noah_jpeg",
            "C": bool(self.checkpoint) and self.checkpoint != checkpoint,
            "N": bool(self.normalization) and self.normalization != FAMILY_NORMALIZATION[self.pretraining],
            "M": bool(self.misprints) or "misprint" in self.note,
        }
        return "".join(letter for letter, is_raised in raised.items() if is_raised)


def load(path: Path, configs: Path) -> dict[str, list[Published]]:
    """Returns the rows of a file like `results/published.csv` by suite; none if there is no file.

    Raises:
        UserError: if a column is missing or a number cannot be read.
    """
    if not path.exists():
        return {}
    rows: dict[str, list[Published]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                try:
                    groups = task_groups(suite_columns(line["suite"], configs))
                except UserError:  # a suite without tasks has no tables
                    continue
                rows.setdefault(line["suite"], []).append(parse_row(line, groups))
    except UserError:
        raise
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{path} is not a table of published rows: {error}; see its first line for its columns"
        ) from error
    return rows


def parse_row(line: Mapping[str, str], groups: Mapping[str, Sequence[str]]) -> Published:
    """Returns one line of the file."""
    tasks = [task for members in groups.values() for task in members]
    accuracies = {task: Fraction(line[task]) for task in tasks if line[task]}
    printed = {name: Fraction(line[f"printed_{name}"]) for name in MEANS if line[f"printed_{name}"]}
    return Published(
        name=line["row"],
        method=line["method"],
        study=line["study"],
        pretraining=line["pretraining"],
        checkpoint=line["checkpoint"],
        selection=line["selection"],
        lineage=line["lineage"],
        normalization=line["normalization"],
        params_m=Fraction(line["params_m"]) if line["params_m"] else None,
        accuracies=accuracies,
        printed=printed,
        means=recompute_means(accuracies, printed, groups),
        note=line["note"],
        source=line["source"],
    )


def recompute_means(
    accuracies: Mapping[str, Fraction], printed: Mapping[str, Fraction], groups: Mapping[str, Sequence[str]]
) -> dict[str, Fraction]:
    """Returns the means of complete accuracies; the mean of groups from printed group means if tasks are missing."""
    means = {
        group: mean([accuracies[task] for task in tasks])
        for group, tasks in groups.items()
        if all(task in accuracies for task in tasks)
    }
    group_means = means if all(group in means for group in groups) else printed
    if all(group in group_means for group in groups):
        means["groups"] = mean([group_means[group] for group in groups])
    if len(accuracies) == sum(map(len, groups.values())):
        means["tasks"] = mean(list(accuracies.values()))
    return means


def same_pretraining(rows: Sequence[Published], checkpoint: str) -> list[Published]:
    """Returns the rows with the same pretraining as a checkpoint (timm's name)."""
    families = {row.pretraining for row in rows if row.checkpoint == checkpoint}
    return [row for row in rows if row.pretraining in families]


def paper_row(rows: Sequence[Published], method: str) -> Published | None:
    """Returns the first row of a method that no other study ran again and that has a mean of groups."""
    return next((row for row in with_mean(rows, method) if not row.study), None)


def named_row(rows: Sequence[Published], name: str) -> Published | None:
    """Returns the first row of this name that has a mean of groups."""
    return next((row for row in rows if row.name == name and row.mean_of_groups is not None), None)


def val_tuned_row(rows: Sequence[Published], method: str) -> Published | None:
    """Returns the row of a method that was tuned on val200 and evaluated after the last epoch."""
    return next((row for row in with_mean(rows, method) if row.selection == "last_epoch"), None)


def with_mean(rows: Sequence[Published], method: str) -> list[Published]:
    """Returns the rows of a method that have a mean of groups, in the file's order."""
    return [row for row in rows if row.method == method and row.mean_of_groups is not None]
