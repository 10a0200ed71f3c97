"""The numbers of a comparison of a table's rows: intervals, differences from a baseline row, published accuracies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from moppa.report.estimate import Estimate, Interval, estimate_accuracy, holm, mcnemar
from moppa.report.published import Published
from moppa.report.significance import ALPHA, Comparer, is_testable
from moppa.report.table import Row, Table
from moppa.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A row's accuracy minus the baseline's on one task, in points.

    `p_value` is that of the t test, corrected for all differences of the comparison; None if a row has fewer than three
    seeds or if the budgets differ. `mcnemar_p` compares two runs, if each row has one seed.
    """

    interval: Interval
    p_value: float | None = None
    mcnemar_p: float | None = None

    @property
    def is_significant(self) -> bool:
        return self.p_value is not None and self.p_value < ALPHA


def table_comparer(table: Table) -> Comparer:
    """Returns what compares the rows of a table by their predictions."""
    return Comparer({row.name: row.records_by_task for row in table.rows})


def accuracy_estimates(table: Table, comparer: Comparer) -> dict[tuple[str, str], Estimate]:
    """Returns the accuracy of every cell whose predictions are stored, by row and task."""
    return {
        (row.name, task): estimate_accuracy(predictions.correct)
        for row in table.rows
        for task in row.records_by_task
        if (predictions := comparer.predictions(row.name, task)) is not None
    }


def baseline_of(table: Table, name: str | None) -> Row:
    """Returns the row with this name, or else the first of this method; without a name, the first of all.

    The rows are in the order of their trainable parameters.

    Raises:
        UserError: if the table has no such row.
    """
    rows = [row for row in table.rows if name in (None, row.name, row.method)]
    rows.sort(key=lambda row: row.name != name)
    if not rows:
        names = ", ".join(row.name for row in table.rows)
        raise UserError(f"the table {table.name} has no row {name!r} to compare with; its rows are {names}")
    return rows[0]


def baselines(tables: Sequence[Table], name: str | None) -> dict[str, str | None]:
    """Returns the baseline of each table by the table's name: `name`, or None (the smallest row) if it has no such row.

    Raises:
        UserError: if none of the tables has a row with this name or method.
    """
    tables = [table for table in tables if table.rows]
    found = {table.name: any(name in (row.name, row.method) for row in table.rows) for table in tables}
    if name is not None and tables and not any(found.values()):
        rows = "; ".join(f"{table.name}: {', '.join(row.name for row in table.rows)}" for table in tables)
        raise UserError(f"no table has a row {name!r} to compare with; the rows are {rows}")
    return {table: name if has_row else None for table, has_row in found.items()}


def without_baseline(names: Mapping[str, str | None], name: str | None) -> str:
    """Returns one line for each table that has no row of this name, and so is compared with its smallest row."""
    lines = [f"{table}: it has no row {name!r}, so its smallest row is the baseline\n" for table in names]
    return "".join(line for line, found in zip(lines, names.values(), strict=True) if name is not None and not found)


def differences_from(baseline: Row, table: Table, comparer: Comparer) -> dict[tuple[str, str], Difference]:
    """Returns the differences of all other rows from the baseline that can be computed, by row and task."""
    pairs = [
        (row, task, difference)
        for row in table.rows
        if row is not baseline
        for task in baseline.records_by_task
        if (difference := comparer.difference(row.name, baseline.name, task)) is not None
    ]
    tested = [
        (row.name, task)
        for row, task, _ in pairs
        if is_testable([(len(side.records_by_task[task]), side.budgets[task]) for side in (row, baseline)])
    ]
    estimates = {(row.name, task): difference for row, task, difference in pairs}
    adjusted = holm([estimates[cell].p_value for cell in tested], [" ".join(cell) for cell in tested])
    p_values = dict(zip(tested, adjusted, strict=True))
    return {
        (row.name, task): Difference(
            interval=difference.interval(),
            p_value=p_values.get((row.name, task)),
            mcnemar_p=mcnemar_of_runs(row.name, baseline.name, task, comparer),
        )
        for row, task, difference in pairs
    }


def mcnemar_of_runs(first: str, second: str, task: str, comparer: Comparer) -> float | None:
    """Returns the p-value of McNemar's test of two rows with a single seed each, else None."""
    sides = [predictions.correct for row in (first, second) if (predictions := comparer.predictions(row, task))]
    if any(correct.num_seeds > 1 for correct in sides):
        return None
    return mcnemar(*(correct.by_image.astype(bool) for correct in sides))


def published_frame(rows: Sequence[Published], tasks: Sequence[str]) -> pd.DataFrame:
    """Returns the accuracies, in percent, of the published rows that print every task: rows by tasks."""
    complete = [row for row in rows if len(row.accuracies) == len(tasks)]
    values = [[float(row.accuracies[task]) for task in tasks] for row in complete]
    return pd.DataFrame(values, index=[row.name for row in complete], columns=list(tasks), dtype=float)
