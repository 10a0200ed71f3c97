"""A table as Markdown and CSV, and the text of its cells in any format. The same table gives the same bytes."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moppa.report.published import FLAGS, Published, honest_row, paper_row
from moppa.report.table import Row, Table, Value

MISSING = "–"
BESIDE = {"paper": "paper", "tuned": "val-tuned"}


@dataclass(frozen=True, kw_only=True)
class Head:
    """One column: what it shows (`task`, `mean`, `size`, `beside`), its title, and the group that it stands in."""

    key: str
    title: str
    kind: str
    group: str = ""


def heads_of(table: Table) -> list[Head]:
    """The columns in the papers' order: each group's tasks and mean, the averages, the sizes, what was published."""
    titles = {column.task: column.title for column in table.columns}
    heads: list[Head] = []
    for group, tasks in table.groups.items():
        heads += [Head(key=task, title=titles[task], kind="task", group=group) for task in tasks]
        heads.append(Head(key=f"mean_{group}", title=group.capitalize(), kind="mean", group=group))
    heads += [
        Head(key="mean_groups", title="Mean of groups", kind="mean"),
        Head(key="mean_tasks", title=f"Mean of {len(titles)}", kind="mean"),
        Head(key="params", title="Parameters (M)", kind="size"),
        Head(key="params_with_head", title="With head (M)", kind="size"),
    ]
    shown = [name for name in BESIDE if any(name in row.beside for row in table.rows)]
    return heads + [
        Head(key=f"{name}{part}", title=f"{before}{BESIDE[name]}", kind="beside")
        for name in shown for part, before in (("", ""), ("_deviation", "Ours less "))
    ]  # fmt: skip


def markdown(table: Table) -> str:
    """The table with its caption and notes."""
    notes = [f"- {note}" for note in notes_of(table)]
    parts = [f"# {table.title}", caption(table), markdown_grid(table)]
    return "\n\n".join(parts) + "\n" + "\n".join(["", *notes, ""] if notes else [])


def markdown_grid(table: Table) -> str:
    """The table alone."""
    heads = heads_of(table)
    titles = ["method", *(f"**{head.title}**" if head.kind == "mean" else head.title for head in heads)]
    lines = [
        [escape_markdown(row.name) + f" {row.marks}" * bool(row.marks), *(text(row, head, MARKDOWN) for head in heads)]
        for row in table.rows
    ]
    lines += [
        [
            f"*{escape_markdown(row.name)}* {row.flags(table.checkpoint)}".strip(),
            *(published_text(row, head) for head in heads),
        ]
        for row in shown_published(table)
    ]
    return grid(titles, lines)


def grid(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return "| " + " | ".join([cells[0].ljust(len(first)), *others]) + " |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(titles), "|" + "|".join(f" {dashes} " for dashes in rule) + "|", *map(line, lines)])


def caption(table: Table) -> str:
    """The facts as one sentence."""
    facts = "; ".join(table.facts)
    return facts[0].upper() + facts[1:] + "."


def notes_of(table: Table) -> list[str]:
    """What the marks mean, what was left out, and where published rows come from."""
    notes = [f"{mark} {meaning}" for mark, meaning in table.notes.items()]
    if published := shown_published(table):
        used = "".join(row.flags(table.checkpoint) for row in published)
        notes.append(
            "paper, val-tuned: published mean of groups, and the one tuned on val200 and read after the last epoch"
        )
        notes.append("In italics: published rows, their means recomputed from their cells where all are printed")
        notes += [f"{flag} {meaning}" for flag, meaning in FLAGS.items() if flag in used]
        sources: dict[str, list[str]] = {}
        for row in published:
            sources.setdefault(row.source, []).append(row.name + f" ({row.note})" * bool(row.note))
        notes += [f"{', '.join(dict.fromkeys(names))}: {source}" for source, names in sources.items()]
    return notes + [f"Left out: {one.place}: {one.reason}" for one in table.left_out]


def shown_published(table: Table) -> list[Published]:
    """The published rows of the methods in the table that a table on paper has room for: each method's two."""
    methods = dict.fromkeys(row.method for row in table.rows)
    found = [pick(table.published, method) for method in methods for pick in (paper_row, honest_row)]
    return [row for row in found if row is not None]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a format writes a best value, a second, a spread, and what is missing."""

    best: Callable[[str], str]
    second: Callable[[str], str]
    spread: Callable[[str], str]
    missing: str = MISSING


MARKDOWN = Style(best=lambda x: f"**{x}**", second=lambda x: f"<ins>{x}</ins>", spread=lambda x: f" ± {x}")


def text(row: Row, head: Head, style: Style) -> str:
    """One cell of one of our rows."""
    if head.kind in ("task", "mean"):
        return value_text(row.values[head.key], style)
    if head.key == "params":
        return f"{row.params / 1e6:.3f}"
    if head.key == "params_with_head":
        return style.missing if row.params_with_head is None else f"{row.params_with_head / 1e6:.3f}"
    beside = row.beside.get(head.key.removesuffix("_deviation"))
    if beside is None:
        return style.missing
    if head.key.endswith("_deviation"):
        return style.missing if beside.deviation is None else f"{beside.deviation:+.1f}"
    return f"{beside.mean:.1f} {beside.flags}".strip()


def value_text(value: Value, style: Style) -> str:
    """A mean with its spread, marked where it stands out."""
    if value.mean is None:
        return style.missing
    mark = {"best": style.best, "second": style.second}.get(value.standing, str)
    return mark(f"{value.mean:.1f}") + (style.spread(f"{value.sd:.1f}") if value.sd is not None else "")


def published_text(row: Published, head: Head, missing: str = MISSING) -> str:
    """One cell of a published row."""
    if head.key == "params":
        return missing if row.params_m is None else f"{row.params_m:.3f}"
    number = row.cells.get(head.key) if head.kind == "task" else published_mean(row, head.key)
    return missing if number is None else f"{number:.1f}"


def published_mean(row: Published, key: str) -> float | None:
    """A mean of a published row: recomputed where it can be, as printed otherwise."""
    if key == "mean_groups":
        return row.mean_of_groups
    name = {"mean_tasks": "19"}.get(key, key.removeprefix("mean_"))
    return row.means.get(name, row.printed.get(name))


def as_csv(table: Table) -> str:
    """Full precision, one column a number; published rows follow ours, `kind` says which is which."""
    heads = heads_of(table)
    numbers = [head.key for head in heads if head.kind in ("task", "mean")]
    names = ["suite", "backbone", "protocol", "kind", "method", "row", "marks"]
    names += [column for key in numbers for column in (key, f"{key}_sd", f"{key}_seeds", f"{key}_standing")]
    names += ["params", "params_with_head", *(head.key for head in heads if head.kind == "beside"), "records_digest"]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    place = {"suite": table.suite, "backbone": table.backbone, "protocol": table.protocol}
    writer.writerows({**place, **csv_line(row, heads), "records_digest": table.digest} for row in table.rows)
    for row in shown_published(table):
        found = {key: row.cells.get(key, published_mean(row, key)) for key in numbers}
        line = {key: f"{number:.4f}" for key, number in found.items() if number is not None}
        params = {} if row.params_m is None else {"params": f"{1e6 * row.params_m:.1f}"}
        names_of_it = {"kind": "published", "method": row.method, "row": row.name, "marks": row.flags(table.checkpoint)}
        writer.writerow({**place, **names_of_it, **line, **params})
    return out.getvalue()


def csv_line(row: Row, heads: Sequence[Head]) -> dict[str, object]:
    """One of our rows; missing numbers are empty."""
    line: dict[str, object] = {"kind": "ours", "method": row.method, "row": row.name, "marks": row.marks}
    for key, value in row.values.items():
        if value.mean is not None:
            line |= {key: f"{value.mean:.4f}", f"{key}_seeds": value.num_seeds, f"{key}_standing": value.standing}
        if value.sd is not None:
            line[f"{key}_sd"] = f"{value.sd:.4f}"
    line["params"] = f"{row.params:.1f}"
    line["params_with_head"] = "" if row.params_with_head is None else f"{row.params_with_head:.1f}"
    for head in heads:
        if head.kind == "beside" and (beside := row.beside.get(head.key.removesuffix("_deviation"))):
            number = beside.deviation if head.key.endswith("_deviation") else beside.mean
            line[head.key] = "" if number is None else f"{number:.4f}"
    return line


def escape_markdown(text: str) -> str:
    """Text that stays text in a cell of a Markdown table."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")
