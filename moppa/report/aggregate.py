"""The numbers of a table: means and standard deviations over seeds, means over tasks, best and second-best rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from moppa.report.rows import RowRecords
from moppa.report.significance import PairedBootstrap


@dataclass(frozen=True, kw_only=True)
class Value:
    """One number of a row, in percent; `mark` is `best`, `second` or empty."""

    mean: float | None
    sd: float | None = None
    num_seeds: int = 0
    mark: str = ""


def aggregate_values(
    rows: Sequence[RowRecords], groups: Mapping[str, Sequence[str]], comparer: PairedBootstrap
) -> dict[str, dict[str, Value]]:
    """Returns the values of every row, by row and by column: a task, or a mean of `append_means`."""
    accuracies = [
        (row.name, task, record["seed"], record.accuracy)
        for row in rows for task, records in row.by_task.items() for record in records
    ]  # fmt: skip
    frame: Any = pd.DataFrame(accuracies, columns=["row", "task", "seed", "accuracy"])
    tasks = [task for members in groups.values() for task in members]
    by_seed = append_means(frame.pivot(index=["row", "seed"], columns="task", values="accuracy"), groups)
    means = append_means(frame.groupby(["row", "task"])["accuracy"].mean().unstack(), groups)
    num_seeds = by_seed.groupby("row").count().to_dict()
    num_row_seeds = by_seed.groupby("row").size().to_dict()
    deviations = by_seed.groupby("row").std().to_dict()
    weights = column_weights(groups)
    values: dict[str, dict[str, Value]] = {row.name: {} for row in rows}
    not_comparable = {row.name for row in rows if not row.is_comparable}
    for column in means.columns:
        known = means[column].dropna().to_dict()
        if column not in tasks:
            known = {name: mean for name, mean in known.items() if name not in not_comparable}
        comparable = {name: mean for name, mean in known.items() if name not in not_comparable}
        marks = comparer.best_and_second(comparable, weights[column])
        for name, row_values in values.items():
            count = num_seeds[column][name]
            has_sd = name in known and count > 1 and (column in tasks or count == num_row_seeds[name])
            row_values[column] = Value(
                mean=known.get(name),
                sd=deviations[column][name] if has_sd else None,
                num_seeds=count,
                mark=marks.get(name, ""),
            )
    return values


def append_means(accuracies: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Returns task columns, then the mean of each group, of the groups and of the tasks; NaN if any task is missing."""
    tasks = [task for members in groups.values() for task in members]
    table = accuracies.reindex(columns=tasks)
    for group, members in groups.items():
        table[f"mean_{group}"] = table[list(members)].mean(axis=1, skipna=False)
    table["mean_groups"] = table[[f"mean_{group}" for group in groups]].mean(axis=1, skipna=False)
    table["mean_tasks"] = table[tasks].mean(axis=1, skipna=False)
    return table


def column_weights(groups: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """Returns the weight of every task in the mean of each column."""
    tasks = [task for members in groups.values() for task in members]
    return {
        **{task: {task: 1.0} for task in tasks},
        **{f"mean_{group}": dict.fromkeys(members, 1 / len(members)) for group, members in groups.items()},
        "mean_groups": {task: 1 / len(groups) / len(members) for members in groups.values() for task in members},
        "mean_tasks": dict.fromkeys(tasks, 1 / len(tasks)),
    }
