"""What a picture shows of a table: which rows and which tasks, with their bootstrap draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from moppa.report import bootstrap
from moppa.report.bootstrap import Interval
from moppa.report.columns import Column, task_groups
from moppa.report.published import Published
from moppa.report.render.comparison import paired_bootstrap, published_frame, seed_for
from moppa.report.rows import is_tuned
from moppa.report.significance import SEED
from moppa.report.table import Row, Table

MOST_ROWS = 24


@dataclass(frozen=True, kw_only=True)
class PlotData:
    """Rows by tasks without a missing cell: accuracies in percent, parameters without the head.

    `draws` holds bootstrap draws of a cell's accuracy, by row and task, where its predictions are kept.
    """

    title: str
    columns: Sequence[Column]
    accuracies: pd.DataFrame
    params: pd.Series
    draws: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict, repr=False)
    rows: Sequence[Row] = ()

    @property
    def tasks(self) -> list[str]:
        return [column.task for column in self.columns]

    @property
    def groups(self) -> dict[str, list[str]]:
        return task_groups(list(self.columns))

    @property
    def about(self) -> str:
        """What the mean over the tasks is a mean of."""
        if len(self.columns) == 1:
            return self.columns[0].title
        return f"mean of {len(self.columns)} tasks"

    def mean(self, row: str, tasks: Sequence[str]) -> Interval:
        """A row's mean over tasks; its interval is the value alone where a task has no draws."""
        value = float(self.accuracies.loc[row, list(tasks)].mean())
        drawn = [self.draws.get((row, task)) for task in tasks]
        if any(one is None for one in drawn):
            return Interval(value=value, low=value, high=value)
        return bootstrap.interval_of(value, np.mean(drawn, axis=0))


def plot_data(table: Table) -> PlotData | None:
    """The complete rows where there are two at least, else all rows on the tasks that they share; None where none is.

    Of more than `MOST_ROWS` rows one a method is shown.
    """
    accuracies = table.accuracies
    whole = accuracies.dropna()
    chosen = whole if len(whole) > 1 else accuracies.dropna(axis=1)
    if chosen.empty:
        return None
    rows = {row.name: row for row in table.rows if row.name in chosen.index}
    if len(rows) > MOST_ROWS:
        rows = one_a_method(list(rows.values()))
        chosen = chosen.loc[list(rows)]
    columns = [column for column in table.columns if column.task in chosen.columns]
    judge = paired_bootstrap(table)
    draws = {}
    for name in rows:
        for column in columns:
            if (answers := judge.right(name, column.task)) is not None:
                [draws[name, column.task]] = bootstrap.draw_accuracies([answers[0]], seed=seed_for(column.task, SEED))
    return PlotData(
        title=table.title,
        columns=columns,
        accuracies=chosen,
        params=pd.Series({name: float(row.params) for name, row in rows.items()}),
        draws=draws,
        rows=list(rows.values()),
    )


def one_a_method(rows: Sequence[Row]) -> dict[str, Row]:
    """A method's row that was tuned on val200, else that of its YAML's settings, else its first; never by accuracy."""

    def preference(row: Row) -> tuple[bool, int]:
        return not any(is_tuned(one) for one in row.setting.records), len(row.setting.own)

    chosen: dict[str, Row] = {}
    for row in rows:
        if row.method not in chosen or preference(row) < preference(chosen[row.method]):
            chosen[row.method] = row
    return {row.name: row for row in rows if chosen[row.method] is row}


def published_plot_data(published: Sequence[Published], columns: Sequence[Column]) -> PlotData | None:
    """The published rows that were tuned on val200 and read after the last epoch; None where there are none."""
    rows = [row for row in published if row.selection == "last_epoch" and len(row.cells) == len(columns)]
    if not rows:
        return None
    frame = published_frame(rows, [column.task for column in columns])
    frame.index = [str(name).removesuffix(" (OSU)") for name in frame.index]
    params = {row.name.removesuffix(" (OSU)"): np.nan if row.params_m is None else 1e6 * row.params_m for row in rows}
    return PlotData(
        title="OSU's re-runs, ViT-B/16 IN-21k, tuned on val200, last epoch, one seed, JPEG lineage",
        columns=columns, accuracies=frame, params=pd.Series(params),
    )  # fmt: skip
