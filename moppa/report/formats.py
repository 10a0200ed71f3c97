"""A table as Markdown, LaTeX, CSV and HTML. The same table gives the same bytes."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from moppa.report.published import FLAGS, Published, honest_row, paper_row
from moppa.report.table import Row, Table, Value

MISSING = "–"
BESIDE = {"paper": "Paper", "tuned": "Val-tuned"}


@dataclass(frozen=True, kw_only=True)
class Head:
    """One column: what it shows (`task`, `mean`, `size`, `beside`), its title, and the group that it stands in."""

    key: str
    title: str
    kind: str
    group: str = ""


def heads_of(table: Table) -> list[Head]:
    """The columns in the papers' order: every group's tasks and mean, the two averages, the sizes, what was published."""
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
        Head(key=f"{name}{part}", title=f"{BESIDE[name]}{title}", kind="beside")
        for name in shown for part, title in (("", ""), ("_deviation", ", ours minus it"))
    ]  # fmt: skip


def markdown(table: Table) -> str:
    """The table with its caption and notes."""
    heads = heads_of(table)
    titles = ["method", *(f"**{head.title}**" if head.kind == "mean" else head.title for head in heads)]
    lines = [
        [escape_markdown(row.name) + f" {row.marks}" * bool(row.marks), *(text(row, head, MARKDOWN) for head in heads)]
        for row in table.rows
    ]
    lines += [
        [f"*{escape_markdown(row.name)}* {row.flags(table.checkpoint)}".strip(), *(published_text(row, head) for head in heads)]
        for row in shown_published(table)
    ]
    parts = [f"# {table.title}", caption(table), grid(titles, lines), *(f"- {note}" for note in notes_of(table))]
    return "\n\n".join(parts[:3]) + "\n" + "\n".join(["", *parts[3:], ""] if parts[3:] else [])


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
        notes.append("In italics: published rows, their means recomputed from their cells where all are printed")
        notes += [f"{flag} {meaning}" for flag, meaning in FLAGS.items() if flag in used]
        notes += dict.fromkeys(f"{row.name}: {row.source}" + f" ({row.note})" * bool(row.note) for row in published)
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
LATEX = Style(
    best=lambda x: rf"\textbf{{{x}}}",
    second=lambda x: rf"\underline{{{x}}}",
    spread=lambda x: rf"\,{{\tiny$\pm$\,{x}}}",
    missing="--",
)
HTML = Style(
    best=lambda x: f"<b>{x}</b>", second=lambda x: f"<u>{x}</u>", spread=lambda x: f'<span class="sd"> ± {x}</span>'
)


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
        params = {} if row.params_m is None else {"params": round(row.params_m * 1e6)}
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
    line["params"] = row.params
    line["params_with_head"] = "" if row.params_with_head is None else f"{row.params_with_head:.1f}"
    for head in heads:
        if head.kind == "beside" and (beside := row.beside.get(head.key.removesuffix("_deviation"))):
            number = beside.deviation if head.key.endswith("_deviation") else beside.mean
            line[head.key] = "" if number is None else f"{number:.4f}"
    return line


def environment(**signs: str) -> Environment:
    """Templates of this package; what is not a template's own text is escaped in those for HTML."""
    return Environment(
        loader=PackageLoader("moppa.report", "templates"),
        autoescape=lambda name: bool(name) and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **signs,
    )


def html(table: Table) -> str:
    """A page of its own, without scripts."""
    return environment().get_template("table.html").render(
        table=table, heads=heads_of(table), caption=caption(table), notes=notes_of(table),
        text=lambda row, head: text(row, head, HTML), published=shown_published(table), published_text=published_text,
    )  # fmt: skip


def latex(table: Table) -> str:
    """A document that compiles as it is: booktabs, rotated task names, the groups above them."""
    heads = heads_of(table)
    spans = [(group, len(tasks) + 1) for group, tasks in table.groups.items()]
    ends = [1 + sum(count for _, count in spans[: index + 1]) for index in range(len(spans))]
    rules = [rf"\cmidrule(lr){{{end - count + 1}-{end}}}" for end, (_, count) in zip(ends, spans, strict=True)]
    return environment(**TEX_SIGNS).get_template("table.tex").render(
        title=escape_latex(table.title),
        caption=escape_latex(caption(table)),
        notes=[escape_latex(note) for note in notes_of(table)],
        columns="l" + "r" * len(heads),
        spans=[(escape_latex(group.capitalize()), count) for group, count in spans],
        rules="".join(rules),
        heads=[(escape_latex(head.title), head.kind == "mean") for head in heads],
        rows=[[escape_latex(f"{row.name} {row.marks}".strip()), *(latex_text(row, head) for head in heads)] for row in table.rows],
        published=[
            [rf"\textit{{{escape_latex(row.name)}}} {row.flags(table.checkpoint)}".strip(), *(published_text(row, head, "--") for head in heads)]
            for row in shown_published(table)
        ],
    )  # fmt: skip


def latex_text(row: Row, head: Head) -> str:
    """One cell; a deviation's sign is a minus, not a hyphen."""
    cell = text(row, head, LATEX)
    return f"${cell}$" if head.key.endswith("_deviation") and cell != LATEX.missing else cell


# Braces and percent signs are LaTeX's own.
TEX_SIGNS = {
    "block_start_string": "<%", "block_end_string": "%>", "variable_start_string": "<<", "variable_end_string": ">>",
    "comment_start_string": "<#", "comment_end_string": "#>",
}  # fmt: skip
LATEX_SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "†": r"\dag{}", "‡": r"\ddag{}",
    "§": r"\S{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it stands."""
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in text)


def escape_markdown(text: str) -> str:
    """Text that stays text in a cell of a Markdown table."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")
