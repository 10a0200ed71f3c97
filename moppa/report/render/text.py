"""What all formats of a table share: its columns, its caption and notes, and the text of its cells."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from moppa.report.budget import number_range
from moppa.report.published import FLAGS, Published, paper_row, val_tuned_row
from moppa.report.rounding import round_text
from moppa.report.table import Row, Table, Value

MISSING = "–"
REFERENCES = {"paper": "paper", "tuned": "val-tuned"}  # a row's published means and their titles
EXCLUDED_NOTE = "Excluded: "  # the start of the notes on excluded files
PUBLISHED_NOTE = "In italics: published rows. Their means are recomputed from their cells if all cells are printed"


@dataclass(frozen=True, kw_only=True)
class Header:
    """One column; `kind` is `task`, `mean`, `count`, `size` or `reference`, and `group` is a group of tasks."""

    key: str
    title: str
    kind: str
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a format writes the best value, the second-best, a standard deviation, and a missing number."""

    best: Callable[[str], str]
    second: Callable[[str], str]
    spread: Callable[[str], str]
    missing: str = MISSING


def table_headers(table: Table) -> list[Header]:
    """Returns the columns in the papers' order: the tasks and mean of each group, averages, sizes, published means."""
    titles = {column.task: column.title for column in table.columns}
    headers: list[Header] = []
    for group, tasks in table.groups.items():
        headers += [Header(key=task, title=titles[task], kind="task", group=group) for task in tasks]
        headers.append(Header(key=f"mean_{group}", title=group.capitalize(), kind="mean", group=group))
    headers += [
        Header(key="mean_groups", title="Mean of groups", kind="mean"),
        Header(key="mean_tasks", title=f"Mean of {len(titles)}", kind="mean"),
        Header(key="settings_tried", title="Settings tried", kind="count"),
        Header(key="params", title="Parameters (M)", kind="size"),
        Header(key="params_with_head", title="With head (M)", kind="size"),
    ]
    if any(row.backbone_params is not None for row in table.rows):
        headers.append(Header(key="backbone_params", title="Backbone (M)", kind="size"))
    for name, title in REFERENCES.items():
        if any(name in row.references for row in table.rows):
            headers.append(Header(key=name, title=title, kind="reference"))
            headers.append(Header(key=f"{name}_deviation", title=f"Ours minus {title}", kind="reference"))
    return headers


def table_notes(table: Table) -> list[str]:
    """Returns the notes below a table: the marks, the facts, the sources of published rows, and the excluded files."""
    notes = [f"{mark} {meaning}" for mark, meaning in table.notes.items()] + list(table.facts)
    if published := shown_published(table):
        flags = "".join(row.flags(table.checkpoint) for row in published)
        notes.append(
            "paper, val-tuned: the published mean of groups, and that of a run that was tuned on val200 and evaluated "
            "after the last epoch"
        )
        notes.append(PUBLISHED_NOTE)
        notes += [f"{flag} {meaning}" for flag, meaning in FLAGS.items() if flag in flags]
        sources: dict[str, list[str]] = {}
        for row in published:
            sources.setdefault(row.source, []).append(row.name + f" ({row.note})" * bool(row.note))
        notes += [f"{', '.join(dict.fromkeys(names))}: {source}" for source, names in sources.items()]
    return notes + [f"{EXCLUDED_NOTE}{file.relative_path}: {file.reason}" for file in table.excluded]


def shown_published(table: Table) -> list[Published]:
    """Returns the published rows that a table shows: for each of its methods, the paper's and the tuned one."""
    methods = dict.fromkeys(row.method for row in table.rows)
    rows = [find_row(table.published, method) for method in methods for find_row in (paper_row, val_tuned_row)]
    return [row for row in rows if row is not None]


def cell_text(row: Row, header: Header, style: Style) -> str:
    """Returns the text of one cell of one of our rows."""
    if header.kind in ("task", "mean"):
        return value_text(row.values[header.key], style)
    if header.kind == "count":
        return settings_tried(row)
    if header.kind == "size":
        size = getattr(row, header.key)
        return style.missing if size is None else round_text(Fraction(size, 10**6), 3)
    reference = row.references.get(header.key.removesuffix("_deviation"))
    if reference is None:
        return style.missing
    if header.key.endswith("_deviation"):
        return style.missing if reference.deviation is None else round_text(reference.deviation, signed=True)
    return f"{round_text(reference.mean)} {reference.flags}".strip()


def settings_tried(row: Row) -> str:
    """Returns from how many settings the row's were chosen on val200; a range if the tasks differ."""
    return number_range(budget.settings_tried for budget in row.budgets.values()) if row.is_tuned else "given"


def value_text(value: Value, style: Style) -> str:
    """Returns a mean with its standard deviation; the best and the second-best are marked."""
    if value.mean is None:
        return style.missing
    mark = {"best": style.best, "second": style.second}.get(value.mark, str)
    return mark(round_text(value.mean)) + (style.spread(round_text(value.sd)) if value.sd is not None else "")


def published_text(row: Published, header: Header, missing: str = MISSING) -> str:
    """Returns the text of one cell of a published row."""
    if header.key == "params":
        return missing if row.params_m is None else round_text(row.params_m, 3)
    number = row.accuracies.get(header.key) if header.kind == "task" else published_mean(row, header.key)
    return missing if number is None else round_text(number)


def published_mean(row: Published, key: str) -> Fraction | None:
    """Returns a mean of a published row: recomputed if possible, else as printed."""
    if key == "mean_groups":
        return row.mean_of_groups
    name = key.removeprefix("mean_")
    return row.means.get(name, row.printed.get(name))
