"""A table as a LaTeX document and as an HTML page, each of which works as it is."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from moppa.report.render.markdown import Head, Style, caption, heads_of, notes_of, published_text, shown_published, text
from moppa.report.table import Row, Table

LATEX = Style(
    best=lambda x: rf"\textbf{{{x}}}",
    second=lambda x: rf"\underline{{{x}}}",
    spread=lambda x: rf"\,{{\tiny$\pm$\,{x}}}",
    missing="--",
)
HTML = Style(
    best=lambda x: f"<b>{x}</b>", second=lambda x: f"<u>{x}</u>", spread=lambda x: f'<span class="sd"> ± {x}</span>'
)


def environment(**signs: str) -> Environment:
    """Templates of this package; what is not a template's own text is escaped in those for HTML."""
    return Environment(
        loader=PackageLoader("moppa.report.render", "templates"),
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
        rows=[[latex_name(row), *(latex_text(row, head) for head in heads)] for row in table.rows],
        published=[
            [
                rf"\textit{{{escape_latex(row.name)}}} {row.flags(table.checkpoint)}".strip(),
                *(published_text(row, head, LATEX.missing) for head in heads),
            ]
            for row in shown_published(table)
        ],
    )  # fmt: skip


def latex_name(row: Row) -> str:
    """A row's name with its marks."""
    return escape_latex(f"{row.name} {row.marks}".strip())


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
