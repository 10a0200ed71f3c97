"""The numbers of a table: means and standard deviations over seeds, and means over tasks."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from moppa.report.rows import RowRecords
from moppa.report.significance import Comparer, find_marks


@dataclass(frozen=True, kw_only=True)
class Value:
    """One number of a row, in percent; `mark` is `best`, `second` or empty."""

    mean: Fraction | None
    sd: float | None = None
    num_seeds: int = 0
    mark: str = ""


Groups = Mapping[str, Sequence[str]]  # the tasks of each group


def aggregate_values(rows: Sequence[RowRecords], groups: Groups, comparer: Comparer) -> dict[str, dict[str, Value]]:
    """Returns the values of every row, by row and by column: a task, or a mean of `column_weights`."""
    weights = column_weights(groups)
    values = {row.name: row_values(row, groups) for row in rows}
    comparable = [row for row in rows if row.is_comparable]
    means = {
        column: {row.name: mean for row in comparable if (mean := values[row.name][column].mean) is not None}
        for column in weights
    }
    cells = {
        row.name: {task: (len(row.by_task[task]), budget) for task, budget in row.budgets.items()} for row in comparable
    }
    for (row, column), mark in find_marks(cells, means, weights, comparer).items():
        values[row][column] = replace(values[row][column], mark=mark)
    return values


def row_values(row: RowRecords, groups: Groups) -> dict[str, Value]:
    """Returns the values of one row without marks, by column.

    A mean over tasks is missing if one of its tasks is, or if the row's task is not the one of its YAML. It has a
    standard deviation, which is that of the seeds' means, if all its tasks have all seeds of the row.
    """
    by_seed: dict[int, dict[str, Fraction]] = defaultdict(dict)
    for task, records in row.by_task.items():
        for record in records:
            by_seed[record["seed"]][task] = record.accuracy
    means = column_means(
        {task: mean([rec.accuracy for rec in records]) for task, records in row.by_task.items()}, groups
    )
    seed_means = [column_means(of_seed, groups) for of_seed in by_seed.values()]
    tasks = {task for members in groups.values() for task in members}
    values = {}
    for column in column_weights(groups):
        seeds = [of_seed[column] for of_seed in seed_means if column in of_seed]
        has_mean = column in means and (column in tasks or row.is_comparable)
        has_sd = has_mean and len(seeds) > 1 and (column in tasks or len(seeds) == len(by_seed))
        values[column] = Value(
            mean=means[column] if has_mean else None,
            sd=deviation(seeds) if has_sd else None,
            num_seeds=len(seeds),
        )
    return values


def column_means(accuracies: Mapping[str, Fraction], groups: Groups) -> dict[str, Fraction]:
    """Returns the columns of `column_weights` that the accuracies by task are enough for."""
    columns = {task: accuracies[task] for members in groups.values() for task in members if task in accuracies}
    num_tasks = len(columns)
    of_group = {
        group: mean([columns[task] for task in members])
        for group, members in groups.items()
        if all(task in columns for task in members)
    }
    columns |= {f"mean_{group}": value for group, value in of_group.items()}
    if len(of_group) == len(groups):
        columns["mean_groups"] = mean(list(of_group.values()))
        columns["mean_tasks"] = sum((len(groups[g]) * value for g, value in of_group.items()), Fraction(0)) / num_tasks
    return columns


def mean(values: Sequence[Fraction]) -> Fraction:
    """Returns the mean of some numbers."""
    return sum(values, Fraction(0)) / len(values)


def deviation(values: Sequence[Fraction]) -> float:
    """Returns the standard deviation (n - 1) of at least two numbers."""
    center = mean(values)
    return float(sum((value - center) ** 2 for value in values) / (len(values) - 1)) ** 0.5


def column_weights(groups: Groups) -> dict[str, dict[str, Fraction]]:
    """Returns the weight of every task in each column: a task, the mean of a group, of the groups, of the tasks."""
    tasks = [task for members in groups.values() for task in members]
    return {
        **{task: {task: Fraction(1)} for task in tasks},
        **{f"mean_{group}": dict.fromkeys(members, Fraction(1, len(members))) for group, members in groups.items()},
        "mean_groups": {
            task: Fraction(1, len(groups) * len(members)) for members in groups.values() for task in members
        },
        "mean_tasks": dict.fromkeys(tasks, Fraction(1, len(tasks))),
    }
