"""Comparisons as Markdown: intervals, paired tests against a baseline row, ranks over tasks, published rows."""

from collections.abc import Sequence

import pandas as pd

from moppa.report import bootstrap
from moppa.report.bootstrap import Interval
from moppa.report.comparison import (
    Difference,
    accuracy_intervals,
    baseline_of,
    difference_from,
    paired_bootstrap,
    published_frame,
)
from moppa.report.published import FLAGS, Published
from moppa.report.ranks import friedman, win_tie_loss
from moppa.report.render.markdown import escape_markdown, grid
from moppa.report.render.text import MISSING
from moppa.report.significance import SEED, PairedBootstrap
from moppa.report.table import Row, Table
from moppa.utils.errors import UserError


def comparison(table: Table, *, baseline: str | None = None) -> str:
    """Returns the comparison of a table's rows; the baseline is a row's name or method, by default the smallest row."""
    comparer, base = paired_bootstrap(table), baseline_of(table, baseline)
    parts = [
        f"# {table.title}: significance of the differences",
        f"Records: digest {table.digest}. Intervals have a level of {bootstrap.LEVEL:.0%} and come from a bootstrap "
        f"over test images and, if a row has several, seeds ({bootstrap.NUM_DRAWS:,} draws from seed {SEED}). Nothing "
        f"is corrected for multiple comparisons.",
        "## Accuracies",
        intervals_grid(table, comparer),
        f"## Differences from {escape_markdown(base.name)}, in points, on the same images",
        f"Paired bootstrap; * means that the interval excludes 0. p is the p-value of McNemar's exact test on the "
        f"first seed that both rows have. {MISSING} means not comparable.",
        differences_grid(table, comparer, base),
        "## Over tasks",
        ranks_text(table.accuracies.dropna()),
    ]
    return "\n\n".join(parts) + "\n"


def intervals_grid(table: Table, comparer: PairedBootstrap) -> str:
    """Returns the accuracies with their intervals: rows by the tasks that any row has."""
    intervals = accuracy_intervals(table, comparer)
    columns = [column for column in table.columns if any(task == column.task for _, task in intervals)]
    lines = [
        [escape_markdown(row.name), *(interval_text(intervals.get((row.name, column.task))) for column in columns)]
        for row in table.rows
    ]
    return grid(["method", *(column.title for column in columns)], lines)


def interval_text(interval: Interval | None) -> str:
    """Returns a value with its interval."""
    return MISSING if interval is None else f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def differences_grid(table: Table, comparer: PairedBootstrap, base: Row) -> str:
    """Returns the differences of every other row from the baseline, on the baseline's tasks."""
    columns = [column for column in table.columns if column.task in base.records_by_task]
    lines = []
    for row in table.rows:
        if row is not base:
            differences = (difference_from(base, row, column.task, comparer) for column in columns)
            lines.append([escape_markdown(row.name), *map(difference_text, differences)])
    return grid(["method", *(column.title for column in columns)], lines)


def difference_text(difference: Difference | None) -> str:
    """Returns a difference with its interval, an asterisk if that excludes 0, and McNemar's p-value."""
    if difference is None:
        return MISSING
    interval, p_value = difference.interval, difference.mcnemar_p
    text = f"{interval.value:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]" + "*" * interval.excludes_zero
    return text if p_value is None else f"{text} p {p_value:.2g}"


def ranks_text(accuracies: pd.DataFrame) -> str:
    """Returns Friedman's test, average ranks, and wins, ties and losses of methods (rows) that have every task."""
    try:
        test = friedman(accuracies)
    except UserError as error:
        return f"No test over tasks: {error}."
    summary = (
        f"Friedman: chi-squared {test.statistic:.2f}, p {test.p_value:.2g}, over {test.num_tasks} tasks. Average ranks "
        f"that differ by less than {test.critical_difference:.2f} are not significantly different (Nemenyi, 5%)."
    )
    lines = [[escape_markdown(str(name)), f"{rank:.2f}"] for name, rank in test.average_ranks.items()]
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
    numbers = [MISSING if mean is None else f"{mean:.2f}" for mean in means]
    misprints = ", ".join(
        f"{name}: prints {printed:.2f}, its cells give {recomputed:.2f}"
        for name, (printed, recomputed) in row.misprints.items()
    )
    source = "; ".join(filter(None, [row.source, row.note, misprints]))
    flags = row.flags(row.checkpoint) or MISSING
    return [escape_markdown(row.name), row.pretraining, flags, *numbers, escape_markdown(source)]
