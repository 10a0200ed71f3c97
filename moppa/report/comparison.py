"""The numbers of a comparison of a table's rows: intervals, differences from a baseline row, published accuracies."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from moppa.report import bootstrap
from moppa.report.bootstrap import Interval
from moppa.report.published import Published
from moppa.report.significance import SEED, PairedBootstrap, seed_for
from moppa.report.table import Row, Table
from moppa.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A row's accuracy minus the baseline's on one task, in points.

    `mcnemar_p` is the p-value of McNemar's test on the first seed that both have, or None if they share no seed.
    """

    interval: Interval
    mcnemar_p: float | None


def paired_bootstrap(table: Table) -> PairedBootstrap:
    """Returns the bootstrap that compares the rows of a table by their predictions."""
    return PairedBootstrap({row.name: row.records_by_task for row in table.rows})


def accuracy_intervals(table: Table, comparer: PairedBootstrap, *, seed: int = SEED) -> dict[tuple[str, str], Interval]:
    """Returns the interval of every accuracy whose predictions are stored, by row and task."""
    intervals = {}
    for row in table.rows:
        for task in row.records_by_task:
            if (predictions := comparer.predictions(row.name, task)) is not None:
                intervals[row.name, task] = bootstrap.accuracy_interval(predictions.correct, seed=seed_for(task, seed))
    return intervals


def baseline_of(table: Table, name: str | None) -> Row:
    """Returns the row with this name or method; without a name, the row with the fewest trainable parameters.

    Raises:
        UserError: if the table has no such row.
    """
    rows = [row for row in table.rows if name in (None, row.name, row.method)]
    if not rows:
        names = ", ".join(row.name for row in table.rows)
        raise UserError(f"the table {table.name} has no row {name!r} to compare with; its rows are {names}")
    return rows[0]


def difference_from(baseline: Row, row: Row, task: str, comparer: PairedBootstrap) -> Difference | None:
    """Returns a row's difference from the baseline on a task, or None if their predictions cannot be compared."""
    first, second = comparer.predictions(row.name, task), comparer.predictions(baseline.name, task)
    if first is None or second is None or first.images != second.images:
        return None
    interval = bootstrap.paired_difference(first.correct, second.correct, seed=seed_for(task, SEED))
    seeds, baseline_seeds = ([record["seed"] for record in side.records_by_task[task]] for side in (row, baseline))
    shared = [seed for seed in seeds if seed in baseline_seeds]
    if not shared:
        return Difference(interval=interval, mcnemar_p=None)
    p_value = bootstrap.mcnemar(first.correct[seeds.index(shared[0])], second.correct[baseline_seeds.index(shared[0])])
    return Difference(interval=interval, mcnemar_p=p_value)


def published_frame(rows: Sequence[Published], tasks: Sequence[str]) -> pd.DataFrame:
    """Returns the accuracies, in percent, of the published rows that print every task: rows by tasks."""
    complete = [row for row in rows if len(row.accuracies) == len(tasks)]
    index = [row.name for row in complete]
    return pd.DataFrame([row.accuracies for row in complete], index=index, columns=list(tasks))
