"""Tables as Markdown."""

import re
from collections.abc import Sequence

from moppa.report.render.text import (
    Style,
    cell_text,
    published_text,
    shown_published,
    table_headers,
    table_notes,
)
from moppa.report.table import Table

MARKDOWN = Style(best=lambda x: f"**{x}**", second=lambda x: f"<ins>{x}</ins>", spread=lambda x: f" ± {x}")

HTML_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
SPECIAL = re.compile(r"[\\`|\[\]]|\*(?=\S)|(?<=\S)\*|(?<!\w)_(?=\S)|(?<=\S)_(?!\w)|~(?=~)")  # what would format or link


def render_markdown(table: Table) -> str:
    """Returns the table with its title, caption and notes."""
    notes = [f"- {escape_markdown(note)}" for note in table_notes(table)]
    parts = [f"# {escape_markdown(table.title)}", escape_markdown(table.caption), markdown_grid(table)]
    return "\n\n".join(parts) + "\n" + "\n".join(["", *notes, ""] if notes else [])


def markdown_grid(table: Table) -> str:
    """Returns the rows and columns only."""
    headers = table_headers(table)
    names = [escape_markdown(header.title) for header in headers]
    shown = zip(names, headers, strict=True)
    titles = ["method", *(f"**{name}**" if header.kind == "mean" else name for name, header in shown)]
    lines = []
    for row in table.rows:
        name = escape_markdown(row.name) + f" {row.marks}" * bool(row.marks)
        lines.append([name, *(cell_text(row, header, MARKDOWN) for header in headers)])
    for row in shown_published(table):
        name = f"*{escape_markdown(row.name)}* {row.flags(table.checkpoint)}".strip()
        lines.append([name, *(published_text(row, header) for header in headers)])
    return grid(titles, lines)


def grid(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table whose first column is aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]

    def format_line(cells: Sequence[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return "| " + " | ".join([cells[0].ljust(len(first)), *others]) + " |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    rule_line = "|" + "|".join(f" {dashes} " for dashes in rule) + "|"
    return "\n".join([format_line(titles), rule_line, *map(format_line, lines)])


def escape_markdown(text: str) -> str:
    """Returns text that stays plain text in Markdown, also in a cell of a table. A _ inside of a word is plain."""
    line = " ".join(text.split())
    for character, replacement in HTML_ENTITIES.items():
        line = line.replace(character, replacement)
    return SPECIAL.sub(r"\\\g<0>", line)
