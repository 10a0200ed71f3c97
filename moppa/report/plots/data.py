"""The data of the charts: complete rows of a table or of published results, with what is known about their noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import pandas as pd

from moppa.report.columns import Column, task_groups
from moppa.report.comparison import accuracy_estimates, baseline_of, table_comparer
from moppa.report.estimate import Estimate, weighted_sum
from moppa.report.published import Published
from moppa.report.table import Row, Table

MAX_ROWS = 24


@dataclass(frozen=True, kw_only=True)
class PlotData:
    """Rows by tasks without a missing cell.

    Attributes:
        title: the title of every chart.
        columns: the tasks.
        cells: the accuracy by row and task; its variance is known if the cell's predictions are kept.
        params: trainable parameters without the head, by row; NaN if unknown.
        baseline: the row that the others are compared with.
        rows: the rows of the table; none for published results.
    """

    title: str
    columns: Sequence[Column]
    cells: Mapping[tuple[str, str], Estimate] = field(repr=False)
    params: pd.Series
    baseline: str
    rows: Sequence[Row] = ()

    @property
    def tasks(self) -> list[str]:
        return [column.task for column in self.columns]

    @property
    def groups(self) -> dict[str, list[str]]:
        return task_groups(list(self.columns))

    @property
    def row_names(self) -> list[str]:
        return list(self.params.index)

    @property
    def accuracies(self) -> pd.DataFrame:
        """The accuracies in percent, rows by tasks."""
        values = [[float(self.cells[row, task].value) for task in self.tasks] for row in self.row_names]
        return pd.DataFrame(values, index=self.row_names, columns=self.tasks, dtype=float)

    @property
    def best_first(self) -> list[str]:
        """The rows in descending order of their mean accuracy over the tasks."""
        return sorted(self.row_names, key=lambda row: -self.mean(row, self.tasks).value)

    @property
    def mean_label(self) -> str:
        """What the mean accuracy of a row is a mean of; the title of the task if there is only one."""
        return self.columns[0].title if len(self.columns) == 1 else f"mean of {len(self.columns)} tasks"

    @property
    def has_intervals(self) -> bool:
        return any(estimate.components for estimate in self.cells.values())

    def mean(self, row: str, tasks: Sequence[str]) -> Estimate:
        """Returns a row's mean accuracy over tasks."""
        return weighted_sum((Fraction(1, len(tasks)), self.cells[row, task]) for task in tasks)


def plot_data(table: Table, baseline: str | None = None) -> PlotData | None:
    """Returns the complete rows if there are at least two, else all rows on the tasks that they share.

    Args:
        table: the table.
        baseline: the name or the method of the baseline row; by default the row with the fewest parameters.

    Returns:
        The data, or None if the rows share no task. Of more than `MAX_ROWS` rows, one for each method is kept.

    Raises:
        UserError: if the table has no such baseline.
    """
    accuracies = table.accuracies
    complete = accuracies.dropna()
    selected = complete if len(complete) > 1 else accuracies.dropna(axis=1)
    if selected.empty:
        return None
    rows = [row for row in table.rows if row.name in selected.index]
    if len(rows) > MAX_ROWS:
        rows = one_row_per_method(rows)
    columns = [column for column in table.columns if column.task in selected.columns]
    baseline_name = baseline_of(table, baseline).name
    names = [row.name for row in rows]
    return PlotData(
        title=table.title,
        columns=columns,
        cells=cell_estimates(table, rows, columns),
        params=pd.Series([float(row.params) for row in rows], index=names),
        baseline=baseline_name if baseline_name in names else names[0],
        rows=rows,
    )


def cell_estimates(table: Table, rows: Sequence[Row], columns: Sequence[Column]) -> dict[tuple[str, str], Estimate]:
    """Returns the accuracy of every cell, by row and task; without predictions nothing is known about its variance."""
    known = accuracy_estimates(table, table_comparer(table))
    values = {(row.name, column.task): row.values[column.task].mean for row in rows for column in columns}
    return {cell: known.get(cell) or Estimate(value=value) for cell, value in values.items() if value is not None}


def one_row_per_method(rows: Sequence[Row]) -> list[Row]:
    """Returns for each method the row tuned on val200, else the one with the YAML's settings; never by accuracy."""

    def preference(row: Row) -> tuple[bool, int]:
        return not row.is_tuned, len(row.overrides)

    preferred: dict[str, Row] = {}
    for row in rows:
        if row.method not in preferred or preference(row) < preference(preferred[row.method]):
            preferred[row.method] = row
    return [row for row in rows if preferred[row.method] is row]


def published_plot_data(
    published: Sequence[Published], columns: Sequence[Column], baseline: str | None = None
) -> PlotData | None:
    """Returns the complete published rows that were tuned on val200 and evaluated after the last epoch.

    Returns:
        The data, whose baseline is the row of that name if there is one, else the first row; None without rows.
    """
    rows = [row for row in published if row.selection == "last_epoch" and len(row.accuracies) == len(columns)]
    if not rows:
        return None
    studies, families, lineages = (
        ", ".join(sorted({getattr(row, name) for row in rows})) for name in ("study", "pretraining", "lineage")
    )
    names = [row.name.removesuffix(f" ({studies})") for row in rows]
    return PlotData(
        title=f"Published by {studies}: pretraining {families}, data lineage {lineages}, tuned on val200, last epoch",
        columns=columns,
        cells={
            (name, task): Estimate(value=accuracy)
            for name, row in zip(names, rows, strict=True)
            for task, accuracy in row.accuracies.items()
        },
        params=pd.Series([float("nan" if row.params_m is None else 10**6 * row.params_m) for row in rows], index=names),
        baseline=baseline if baseline in names else names[0],
    )
