"""Tables as a LaTeX document and as an HTML page, both complete on their own."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from moppa.report.published import Published
from moppa.report.render.text import (
    EXCLUDED_NOTE,
    Header,
    Style,
    cell_text,
    published_text,
    shown_published,
    table_headers,
    table_notes,
)
from moppa.report.table import Row, Table

ROWS_ON_PAGE = 30  # of a table in LaTeX
LATEX = Style(
    best=lambda x: rf"\textbf{{{x}}}",
    second=lambda x: rf"\underline{{{x}}}",
    spread=lambda x: rf"\,{{\tiny$\pm$\,{x}}}",
    missing="--",
)
HTML = Style(
    best=lambda x: f"<b>{x}</b>", second=lambda x: f"<u>{x}</u>", spread=lambda x: f'<span class="sd"> ± {x}</span>'
)


def environment(**delimiters: Any) -> Environment:
    """Returns the environment of this package's templates; values are escaped in those for HTML."""
    return Environment(
        loader=PackageLoader("moppa.report.render", "templates"),
        autoescape=lambda name: bool(name) and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **delimiters,
    )


def render_html(table: Table) -> str:
    """Returns an HTML page without scripts."""
    return environment().get_template("table.html").render(
        table=table,
        headers=table_headers(table),
        caption=table.caption,
        notes=table_notes(table),
        cell_text=lambda row, header: cell_text(row, header, HTML),
        published=shown_published(table),
        published_text=published_text,
    )  # fmt: skip


def render_latex(table: Table) -> str:
    """Returns a LaTeX document that compiles: booktabs, rotated task names, the groups above them.

    Columns without a number in our rows are named below the table. A long table is continued on further pages.
    """
    headers = [header for header in table_headers(table) if is_filled(table, header)]
    empty = [header.title for header in table_headers(table) if header not in headers]
    counts = [(group, sum(header.group == group for header in headers)) for group in table.groups]
    spans = [(group, count) for group, count in counts if count]
    ends = [1 + sum(count for _, count in spans[: index + 1]) for index in range(len(spans))]
    rules = [rf"\cmidrule(lr){{{end - count + 1}-{end}}}" for end, (_, count) in zip(ends, spans, strict=True)]
    rows = [[latex_name(row), *(latex_cell(row, header) for header in headers)] for row in table.rows]
    published = [
        [latex_published_name(row, table), *(published_text(row, header, LATEX.missing) for header in headers)]
        for row in shown_published(table)
    ]
    lines = [" & ".join(line) + r" \\" for line in rows + published]
    if published:
        lines[len(rows)] = r"\midrule" + "\n" + lines[len(rows)]
    notes = [*table_notes(table), *([f"Not run: {', '.join(empty)}"] if empty else [])]
    return environment(**LATEX_DELIMITERS).get_template("table.tex").render(
        title=escape_latex(table.title),
        caption=escape_latex(table.caption),
        notes=[escape_latex(note) for note in notes if not note.startswith(EXCLUDED_NOTE)],
        excluded=[escape_latex(note) for note in notes if note.startswith(EXCLUDED_NOTE)],
        columns="l" + "r" * len(headers),
        spans=[(escape_latex(group.capitalize()), count) for group, count in spans],
        rules="".join(rules),
        headers=[(escape_latex(header.title), header.kind == "mean") for header in headers],
        pages=[lines[start : start + ROWS_ON_PAGE] for start in range(0, len(lines), ROWS_ON_PAGE)] or [[]],
    )  # fmt: skip


def is_filled(table: Table, header: Header) -> bool:
    """Returns whether any of our rows has a number in a column."""
    return any(cell_text(row, header, LATEX) != LATEX.missing for row in table.rows)


def latex_published_name(row: Published, table: Table) -> str:
    """Returns the name of a published row with its flags."""
    return rf"\textit{{{escape_latex(row.name)}}} {row.flags(table.checkpoint)}".strip()


def latex_name(row: Row) -> str:
    """Returns a row's name with its marks."""
    return escape_latex(f"{row.name} {row.marks}".strip())


def latex_cell(row: Row, header: Header) -> str:
    """Returns one cell. Deviations are in math mode, so that their sign is a minus and not a hyphen."""
    cell = cell_text(row, header, LATEX)
    return f"${cell}$" if header.key.endswith("_deviation") and cell != LATEX.missing else cell


# LaTeX uses braces and percent signs itself.
LATEX_DELIMITERS = {
    "block_start_string": "<%", "block_end_string": "%>", "variable_start_string": "<<", "variable_end_string": ">>",
    "comment_start_string": "<#", "comment_end_string": "#>",
}  # fmt: skip
LATEX_CHARACTERS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "†": r"\dag{}", "‡": r"\ddag{}",
    "§": r"\S{}", "¶": r"\P{}", "◊": r"$\diamond$", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Returns text that LaTeX prints unchanged, in one line. The end of the row before would take a first [ or *."""
    line = " ".join(text.split())
    return "{}" * line.startswith(("[", "*")) + "".join(
        LATEX_CHARACTERS.get(character, character) for character in line
    )
