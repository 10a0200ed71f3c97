"""Comparisons as Markdown: intervals, paired tests against a baseline row, ranks over tasks, published rows."""

from collections.abc import Sequence

import pandas as pd

from moppa.report.comparison import (
    Difference,
    accuracy_estimates,
    baseline_of,
    differences_from,
    published_frame,
    table_comparer,
)
from moppa.report.estimate import LEVEL, Interval
from moppa.report.published import FLAGS, Published
from moppa.report.ranks import friedman, win_tie_loss
from moppa.report.render.markdown import escape_markdown, grid
from moppa.report.render.text import MISSING
from moppa.report.rounding import round_text
from moppa.report.significance import ALPHA, MIN_SEEDS, Comparer
from moppa.report.table import Row, Table
from moppa.utils.errors import UserError


def comparison(table: Table, *, baseline: str | None = None) -> str:
    """Returns the comparison of a table's rows; the baseline is a row's name or method, by default the smallest row."""
    comparer, base = table_comparer(table), baseline_of(table, baseline)
    parts = [
        f"# {escape_markdown(table.title)}: significance of the differences",
        f"Records: digest {table.digest}. Intervals have a level of {LEVEL:.0%}, by Student's distribution. They cover "
        f"test images and seeds, but of a row with one seed the images alone: another seed may differ by more.",
        "## Accuracies",
        intervals_grid(table, comparer),
        f"## Differences from {escape_markdown(base.name)}, in points, on the same images",
        f"p is that of a t test over test images and all seeds, corrected for all differences below by Holm's method; "
        f"* means that it is below {ALPHA:.0%}. There is none if a row has fewer than {MIN_SEEDS} seeds or if the "
        f"budgets differ. The p of runs is that of McNemar's exact test of two single runs, which does not compare the "
        f"methods. {MISSING} means not comparable.",
        differences_grid(table, comparer, base),
        "## Over tasks",
        ranks_text(table.accuracies.dropna()),
    ]
    return "\n\n".join(parts) + "\n"


def intervals_grid(table: Table, comparer: Comparer) -> str:
    """Returns the accuracies with their intervals: rows by the tasks that any row has."""
    estimates = accuracy_estimates(table, comparer)
    columns = [column for column in table.columns if any(task == column.task for _, task in estimates)]
    lines = [[escape_markdown(row.name)] for row in table.rows]
    for line, row in zip(lines, table.rows, strict=True):
        for column in columns:
            estimate = estimates.get((row.name, column.task))
            line.append(MISSING if estimate is None else interval_text(estimate.interval()))
    return grid(["method", *(escape_markdown(column.title) for column in columns)], lines)


def interval_text(interval: Interval) -> str:
    """Returns an accuracy with its interval."""
    low, high = max(0.0, interval.low), min(100.0, interval.high)
    return f"{round_text(interval.value)} [{round_text(low)}, {round_text(high)}]"


def differences_grid(table: Table, comparer: Comparer, base: Row) -> str:
    """Returns the differences of every other row from the baseline, on the baseline's tasks."""
    columns = [column for column in table.columns if column.task in base.records_by_task]
    differences = differences_from(base, table, comparer)
    lines = [
        [escape_markdown(row.name), *(difference_text(differences.get((row.name, column.task))) for column in columns)]
        for row in table.rows
        if row is not base
    ]
    return grid(["method", *(escape_markdown(column.title) for column in columns)], lines)


def difference_text(difference: Difference | None) -> str:
    """Returns a difference with its interval, its p-value, and an asterisk if it is significant."""
    if difference is None:
        return MISSING
    interval = difference.interval
    value, low, high = (round_text(x, signed=True) for x in (interval.value, interval.low, interval.high))
    text = f"{value} [{low}, {high}]" + "*" * difference.is_significant
    if difference.p_value is not None:
        return f"{text} {p_text(difference.p_value)}"
    return text if difference.mcnemar_p is None else f"{text} {p_text(difference.mcnemar_p)} of runs"


def p_text(p_value: float) -> str:
    """Returns a p-value with three decimals."""
    return "p < 0.001" if p_value < 0.001 else f"p {round_text(p_value, 3)}"


def ranks_text(accuracies: pd.DataFrame) -> str:
    """Returns Friedman's test, average ranks, and wins, ties and losses of methods (rows) that have every task."""
    try:
        test = friedman(accuracies)
    except UserError as error:
        return f"No test over tasks: {error}."
    distance = round_text(test.critical_difference, 2)
    summary = (
        f"Friedman: chi-squared {test.statistic:.2f}, p {test.p_value:.2g}, over {test.num_tasks} tasks. Average ranks "
        f"that differ by less than {distance} are not significantly different (Nemenyi, 5%)."
    )
    lines = [[escape_markdown(str(name)), round_text(rank, 2)] for name, rank in test.average_ranks.items()]
    ranks = grid(["method", "average rank"], lines)
    table = win_tie_loss(accuracies.loc[test.average_ranks.index])
    names = [escape_markdown(str(name)) for name in table.index]
    lines = [[name, *line] for name, line in zip(names, table.to_numpy(), strict=True)]
    return f"{summary}\n\n{ranks}\n\n{grid(['wins/ties/losses', *names], lines)}"


def published_page(suite: str, rows: Sequence[Published], tasks: Sequence[str]) -> str:
    """Returns all published rows of a suite with printed and recomputed means, and the tuned rows' ranks over tasks."""
    titles = ["row", "pretraining", "flags", "printed, groups", "recomputed, groups", f"printed, {len(tasks)}"]
    titles += [f"recomputed, {len(tasks)}", "source"]
    lines = [published_line(row) for row in rows]
    tuned = [row for row in rows if row.selection == "last_epoch"]
    studies = ", ".join(dict.fromkeys(row.study for row in tuned if row.study))
    flags = "; ".join(f"{flag}: {meaning}" for flag, meaning in FLAGS.items() if flag != "C")
    parts = [
        f"# Published rows of {suite}",
        f"From results/published.csv. {flags}. A row without a flag is not known to have the problem.",
        grid(titles, lines),
        f"## Rows tuned on val200 and evaluated after the last epoch ({studies}), over the {len(tasks)} tasks",
        ranks_text(published_frame(tuned, tasks)),
    ]
    return "\n\n".join(parts) + "\n"


def published_line(row: Published) -> list[str]:
    """Returns the cells of one published row."""
    means = [row.printed.get("groups"), row.means.get("groups"), row.printed.get("tasks"), row.means.get("tasks")]
    numbers = [MISSING if mean is None else round_text(mean, 2) for mean in means]
    misprints = ", ".join(
        f"{name}: prints {round_text(printed, 2)}, its cells give {round_text(recomputed, 2)}"
        for name, (printed, recomputed) in row.misprints.items()
    )
    source = "; ".join(filter(None, [row.source, row.note, misprints]))
    flags = row.flags(row.checkpoint) or MISSING
    return [escape_markdown(row.name), row.pretraining, flags, *numbers, escape_markdown(source)]
