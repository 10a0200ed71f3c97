"""A table in the terminal, as wide as it is: the same numbers and marks as in the files."""

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as Grid

from moppa.report.render.markdown import (
    MISSING,
    Head,
    Style,
    caption,
    heads_of,
    notes_of,
    published_text,
    shown_published,
    text,
)
from moppa.report.table import Row, Table

TERMINAL = Style(
    best=lambda x: f"[bold]{x}[/bold]",
    second=lambda x: f"[underline]{x}[/underline]",
    spread=lambda x: f" [dim]± {x}[/dim]",
)


def show(table: Table, console: Console) -> None:
    """Prints a table without the columns in which no row has a number, which are named beneath it."""
    heads = heads_of(table)
    filled = [head for head in heads if any(text(row, head, TERMINAL) != MISSING for row in table.rows)]
    console.print(f"\n[bold]{escape(table.title)}[/bold]")
    console.print(escape(caption(table)), style="dim")
    for block in blocks(table, filled, console):
        console.print(grid(table, block))
    if empty := [head.title for head in heads if head not in filled]:
        console.print(f"no number yet: {escape(', '.join(empty))}", style="dim")
    for note in notes_of(table):
        console.print(escape(note), style="red" if note.startswith("Left out") else "dim")


def blocks(table: Table, heads: list[Head], console: Console) -> list[list[Head]]:
    """The columns in one block where the terminal is wide enough, else a block for every group and one for the rest."""
    if Measurement.get(console, console.options.update(max_width=10_000), grid(table, heads)).maximum <= console.width:
        return [heads]
    groups = [[head for head in heads if head.group == group] for group in (*table.groups, "")]
    return [block for block in groups if block]


def grid(table: Table, heads: list[Head]) -> Grid:
    """The rows, ours and then the published ones."""
    found = Grid(header_style="bold", row_styles=["", "on gray11"])
    found.add_column("method", overflow="fold")
    for head in heads:
        found.add_column(escape(head.title), justify="right", style="cyan" if head.kind == "mean" else "")
    for row in table.rows:
        found.add_row(name_of(row), *(text(row, head, TERMINAL) for head in heads))
    if published := shown_published(table):
        found.add_section()
        for row in published:
            name = f"[italic]{escape(row.name)}[/italic] {row.flags(table.checkpoint)}"
            found.add_row(name, *(published_text(row, head) for head in heads))
    return found


def name_of(row: Row) -> str:
    """A row's name with its marks."""
    return escape(row.name) + f" [yellow]{row.marks}[/yellow]" * bool(row.marks)
