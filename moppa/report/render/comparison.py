"""What a table's differences are worth: intervals, paired tests against a baseline, and ranks over tasks."""

import zlib
from collections.abc import Sequence

import pandas as pd

from moppa.report import bootstrap
from moppa.report.bootstrap import Interval
from moppa.report.published import Published
from moppa.report.ranks import friedman, win_tie_loss
from moppa.report.render.markdown import MISSING, escape_markdown, grid
from moppa.report.significance import SEED, PairedBootstrap
from moppa.report.table import Row, Table
from moppa.utils.errors import UserError


def paired_bootstrap(table: Table) -> PairedBootstrap:
    """Compares the rows of a table by their predictions."""
    return PairedBootstrap({row.name: row.setting.cells for row in table.rows})


def intervals_of(table: Table, judge: PairedBootstrap, *, seed: int = SEED) -> dict[tuple[str, str], Interval]:
    """The interval of every cell whose predictions are there, by row and task."""
    found = {}
    for row in table.rows:
        for task in row.setting.cells:
            if (answers := judge.right(row.name, task)) is not None:
                found[row.name, task] = bootstrap.accuracy_interval(answers[0], seed=seed_for(task, seed))
    return found


def seed_for(task: str, seed: int) -> int:
    """The same images are drawn for every row of a task, and others for another task."""
    return zlib.crc32(f"{seed} {task}".encode())


def baseline_of(table: Table, asked: str | None) -> Row:
    """The row that others are compared with: the one asked for by name or method, else the smallest.

    Raises:
        UserError: where there is no such row.
    """
    found = [row for row in table.rows if asked in (None, row.name, row.method)]
    if not found:
        names = ", ".join(row.name for row in table.rows)
        raise UserError(f"the table {table.name} has no row {asked!r} to compare with: it has {names}")
    return found[0]


def comparison(table: Table, *, baseline: str | None = None) -> str:
    """All of it as Markdown. The same table gives the same bytes."""
    judge, base = paired_bootstrap(table), baseline_of(table, baseline)
    parts = [
        f"# {table.title}: what the differences are worth",
        f"Records: digest {table.digest}. Every interval holds {bootstrap.LEVEL:.0%}, by a bootstrap over test images and, "
        f"where a cell has several, seeds ({bootstrap.DRAWS:,} draws from seed {SEED}). Nothing is corrected for many "
        f"comparisons.",
        "## Accuracies",
        intervals_grid(table, judge),
        f"## Differences from {escape_markdown(base.name)}, in points, on the same images",
        f"Paired bootstrap; p of McNemar's exact test on the first seed that both have. {MISSING}: not comparable.",
        differences_grid(table, judge, base),
        "## Over tasks",
        over_tasks(table.accuracies.dropna()),
    ]
    return "\n\n".join(parts) + "\n"


def intervals_grid(table: Table, judge: PairedBootstrap) -> str:
    """Rows by tasks that any row has."""
    found = intervals_of(table, judge)
    columns = [column for column in table.columns if any(task == column.task for _, task in found)]
    lines = [
        [escape_markdown(row.name), *(interval_text(found.get((row.name, column.task))) for column in columns)]
        for row in table.rows
    ]
    return grid(["method", *(column.title for column in columns)], lines)


def interval_text(interval: Interval | None) -> str:
    """A value with its interval."""
    return MISSING if interval is None else f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def differences_grid(table: Table, judge: PairedBootstrap, base: Row) -> str:
    """Every other row's differences from the baseline, on the baseline's tasks."""
    columns = [column for column in table.columns if column.task in base.setting.cells]
    lines = [
        [escape_markdown(row.name), *(difference_text(judge, row, base, column.task) for column in columns)]
        for row in table.rows if row is not base
    ]  # fmt: skip
    return grid(["method", *(column.title for column in columns)], lines)


def difference_text(judge: PairedBootstrap, row: Row, base: Row, task: str) -> str:
    """The difference with its interval, an asterisk where that excludes 0, and McNemar's p."""
    one, other = judge.right(row.name, task), judge.right(base.name, task)
    if one is None or other is None or one[1] != other[1]:
        return MISSING
    interval = bootstrap.paired_difference(one[0], other[0], seed=seed_for(task, SEED))
    text = f"{interval.value:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]" + "*" * interval.excludes_zero
    seeds = [[record["seed"] for record in each.setting.cells[task]] for each in (row, base)]
    if common := [seed for seed in seeds[0] if seed in seeds[1]]:
        p = bootstrap.mcnemar(one[0][seeds[0].index(common[0])], other[0][seeds[1].index(common[0])])
        text += f" p {p:.2g}"
    return text


def over_tasks(accuracies: pd.DataFrame) -> str:
    """Friedman's test, average ranks, and wins, ties and losses of methods (rows) that have every task."""
    try:
        found = friedman(accuracies)
    except UserError as error:
        return f"No test over tasks: {error}."
    said = (
        f"Friedman: chi-squared {found.statistic:.2f}, p {found.p_value:.2g}, over {found.num_tasks} tasks. Average "
        f"ranks that differ by less than {found.critical_difference:.2f} are not told apart (Nemenyi, 5%)."
    )
    ranks = grid(
        ["method", "average rank"], [[escape_markdown(str(n)), f"{r:.2f}"] for n, r in found.average_ranks.items()]
    )
    table = win_tie_loss(accuracies.loc[found.average_ranks.index])
    names = [escape_markdown(str(name)) for name in table.index]
    wins = grid(
        ["wins/ties/losses", *names], [[name, *line] for name, line in zip(names, table.to_numpy(), strict=True)]
    )
    return f"{said}\n\n{ranks}\n\n{wins}"


def published_frame(rows: Sequence[Published], tasks: Sequence[str]) -> pd.DataFrame:
    """The accuracies of published rows that print every task, in percent: rows by tasks."""
    whole = [row for row in rows if len(row.cells) == len(tasks)]
    return pd.DataFrame([row.cells for row in whole], index=[row.name for row in whole], columns=list(tasks))


def published_page(rows: Sequence[Published], tasks: Sequence[str]) -> str:
    """All published rows with their means as printed and as their cells give them, and OSU's methods over the tasks."""
    titles = ["row", "pretraining", "flags", "printed, groups", "from cells", "printed, 19", "from cells ", "source"]
    lines = []
    for row in rows:
        means = [row.printed.get("groups"), row.means.get("groups"), row.printed.get("19"), row.means.get("19")]
        numbers = [MISSING if mean is None else f"{mean:.2f}" for mean in means]
        wrong = ", ".join(f"{name}: prints {a:.2f}, its cells give {b:.2f}" for name, (a, b) in row.misprints.items())
        source = "; ".join(filter(None, [row.source, row.note, wrong]))
        flags = row.flags(row.checkpoint) or MISSING
        lines.append([escape_markdown(row.name), row.pretraining, flags, *numbers, escape_markdown(source)])
    honest = published_frame([row for row in rows if row.selection == "last_epoch"], tasks)
    parts = [
        "# Published rows of VTAB-1K on ViT-B/16",
        "From results/published.csv. B: best epoch chosen on the test set; J: JPEG lineage; N: inputs not normalized "
        "as the checkpoint asks; M: a mean is printed that its cells do not give. No flag means: not known to be so.",
        grid(titles, lines),
        "## The rows tuned on val200 and read after the last epoch (OSU), over the 19 tasks",
        over_tasks(honest),
    ]
    return "\n\n".join(parts) + "\n"
