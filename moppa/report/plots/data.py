"""The data of the charts: complete rows of a table or of published results, with bootstrap draws of the accuracies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from moppa.report import bootstrap
from moppa.report.bootstrap import Interval
from moppa.report.columns import Column, task_groups
from moppa.report.comparison import baseline_of, paired_bootstrap, published_frame
from moppa.report.published import Published
from moppa.report.rows import is_tuned
from moppa.report.significance import SEED, seed_for
from moppa.report.table import Row, Table

MAX_ROWS = 24


@dataclass(frozen=True, kw_only=True)
class PlotData:
    """Rows by tasks without a missing cell.

    Attributes:
        title: the title of every chart.
        columns: the tasks.
        accuracies: in percent, rows by tasks.
        params: trainable parameters without the head, by row; NaN if unknown.
        baseline: the row that the others are compared with.
        draws: bootstrap draws of an accuracy by row and task, for cells whose predictions are kept.
        rows: the rows of the table; none for published results.
    """

    title: str
    columns: Sequence[Column]
    accuracies: pd.DataFrame
    params: pd.Series
    baseline: str
    draws: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict, repr=False)
    rows: Sequence[Row] = ()

    @property
    def tasks(self) -> list[str]:
        return [column.task for column in self.columns]

    @property
    def groups(self) -> dict[str, list[str]]:
        return task_groups(list(self.columns))

    @property
    def row_names(self) -> list[str]:
        return list(self.accuracies.index)

    @property
    def best_first(self) -> list[str]:
        """The rows in descending order of their mean accuracy over the tasks."""
        return list(self.accuracies.mean(axis=1).sort_values(ascending=False, kind="stable").index)

    @property
    def mean_label(self) -> str:
        """What the mean accuracy of a row is a mean of; the title of the task if there is only one."""
        return self.columns[0].title if len(self.columns) == 1 else f"mean of {len(self.columns)} tasks"

    def mean(self, row: str, tasks: Sequence[str]) -> Interval:
        """Returns a row's mean accuracy over tasks; its interval is empty if a task has no draws."""
        value = float(self.accuracies.loc[row, list(tasks)].mean())
        draws = [self.draws[row, task] for task in tasks if (row, task) in self.draws]
        if len(draws) < len(tasks):
            return Interval(value=value, low=value, high=value)
        return bootstrap.percentile_interval(value, np.mean(draws, axis=0))


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
        selected = selected.loc[[row.name for row in rows]]
    columns = [column for column in table.columns if column.task in selected.columns]
    baseline_name = baseline_of(table, baseline).name
    return PlotData(
        title=table.title,
        columns=columns,
        accuracies=selected,
        params=pd.Series({row.name: float(row.params) for row in rows}),
        baseline=baseline_name if baseline_name in selected.index else rows[0].name,
        draws=accuracy_draws(table, rows, columns),
        rows=rows,
    )


def accuracy_draws(table: Table, rows: Sequence[Row], columns: Sequence[Column]) -> dict[tuple[str, str], np.ndarray]:
    """Returns bootstrap draws of the accuracy, by row and task, of the cells whose predictions are kept."""
    comparer = paired_bootstrap(table)
    draws = {}
    for row in rows:
        for column in columns:
            if (predictions := comparer.predictions(row.name, column.task)) is not None:
                seed = seed_for(column.task, SEED)
                [draws[row.name, column.task]] = bootstrap.draw_accuracies([predictions.correct], seed=seed)
    return draws


def one_row_per_method(rows: Sequence[Row]) -> list[Row]:
    """Returns for each method the row tuned on val200, else the one with the YAML's settings; never by accuracy."""

    def preference(row: Row) -> tuple[bool, int]:
        return not any(is_tuned(record) for record in row.records), len(row.overrides)

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
    frame = published_frame(rows, [column.task for column in columns])
    studies, families, lineages = (
        ", ".join(sorted({getattr(row, name) for row in rows})) for name in ("study", "pretraining", "lineage")
    )
    names = [row.name.removesuffix(f" ({studies})") for row in rows]
    frame.index = pd.Index(names)
    return PlotData(
        title=f"Published by {studies}: pretraining {families}, data lineage {lineages}, tuned on val200, last epoch",
        columns=columns,
        accuracies=frame,
        params=pd.Series([np.nan if row.params_m is None else 1e6 * row.params_m for row in rows], index=names),
        baseline=baseline if baseline in names else names[0],
    )
