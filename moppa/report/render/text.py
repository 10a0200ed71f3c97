"""What all formats of a table share: its columns, its caption and notes, and the text of its cells."""

from collections.abc import Callable
from dataclasses import dataclass

from moppa.report.published import FLAGS, Published, paper_row, val_tuned_row
from moppa.report.table import Row, Table, Value

MISSING = "–"
REFERENCES = {"paper": "paper", "tuned": "val-tuned"}  # a row's published means and their titles
PUBLISHED_NOTE = "In italics: published rows. Their means are recomputed from their cells if all cells are printed"


@dataclass(frozen=True, kw_only=True)
class Header:
    """One column of numbers; `kind` is `task`, `mean`, `size` or `reference`, and `group` is a group of tasks."""

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
        Header(key="params", title="Parameters (M)", kind="size"),
        Header(key="params_with_head", title="With head (M)", kind="size"),
    ]
    for name, title in REFERENCES.items():
        if any(name in row.references for row in table.rows):
            headers.append(Header(key=name, title=title, kind="reference"))
            headers.append(Header(key=f"{name}_deviation", title=f"Ours minus {title}", kind="reference"))
    return headers


def caption(table: Table) -> str:
    """Returns the caption: what the numbers are."""
    return " ".join(table.facts)


def table_notes(table: Table) -> list[str]:
    """Returns the notes below a table: the marks, the sources of published rows, and the excluded files."""
    notes = [f"{mark} {meaning}" for mark, meaning in table.notes.items()]
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
    return notes + [f"Excluded: {file.relative_path}: {file.reason}" for file in table.excluded]


def shown_published(table: Table) -> list[Published]:
    """Returns the published rows that a table shows: for each of its methods, the paper's and the tuned one."""
    methods = dict.fromkeys(row.method for row in table.rows)
    rows = [find_row(table.published, method) for method in methods for find_row in (paper_row, val_tuned_row)]
    return [row for row in rows if row is not None]


def cell_text(row: Row, header: Header, style: Style) -> str:
    """Returns the text of one cell of one of our rows."""
    if header.kind in ("task", "mean"):
        return value_text(row.values[header.key], style)
    if header.key == "params":
        return f"{row.params / 1e6:.3f}"
    if header.key == "params_with_head":
        return style.missing if row.params_with_head is None else f"{row.params_with_head / 1e6:.3f}"
    reference = row.references.get(header.key.removesuffix("_deviation"))
    if reference is None:
        return style.missing
    if header.key.endswith("_deviation"):
        return style.missing if reference.deviation is None else f"{reference.deviation:+.1f}"
    return f"{reference.mean:.1f} {reference.flags}".strip()


def value_text(value: Value, style: Style) -> str:
    """Returns a mean with its standard deviation; the best and the second-best are marked."""
    if value.mean is None:
        return style.missing
    mark = {"best": style.best, "second": style.second}.get(value.mark, str)
    return mark(f"{value.mean:.1f}") + (style.spread(f"{value.sd:.1f}") if value.sd is not None else "")


def published_text(row: Published, header: Header, missing: str = MISSING) -> str:
    """Returns the text of one cell of a published row."""
    if header.key == "params":
        return missing if row.params_m is None else f"{row.params_m:.3f}"
    number = row.accuracies.get(header.key) if header.kind == "task" else published_mean(row, header.key)
    return missing if number is None else f"{number:.1f}"


def published_mean(row: Published, key: str) -> float | None:
    """Returns a mean of a published row: recomputed if possible, else as printed."""
    if key == "mean_groups":
        return row.mean_of_groups
    name = key.removeprefix("mean_")
    return row.means.get(name, row.printed.get(name))
