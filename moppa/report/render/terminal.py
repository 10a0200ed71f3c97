"""Tables in the terminal, fitted to its width, with the same numbers and marks as in the files."""

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as Grid

from moppa.report.render.text import (
    MISSING,
    Header,
    Style,
    cell_text,
    published_text,
    shown_published,
    table_headers,
    table_notes,
)
from moppa.report.table import Row, Table

TERMINAL = Style(
    best=lambda x: f"[bold]{x}[/bold]",
    second=lambda x: f"[underline]{x}[/underline]",
    spread=lambda x: f" [dim]± {x}[/dim]",
)


def show(table: Table, console: Console) -> None:
    """Prints a table. Columns without a number in any of our rows are not printed but listed below it."""
    headers = table_headers(table)
    filled = [h for h in headers if any(cell_text(row, h, TERMINAL) != MISSING for row in table.rows)]
    console.print(f"\n[bold]{escape(table.title)}[/bold]")
    console.print(escape(table.caption), style="dim")
    for block in column_blocks(table, filled, console):
        console.print(grid(table, block))
    if empty := [header.title for header in headers if header not in filled]:
        console.print(f"Not run yet: {escape(', '.join(empty))}", style="dim")
    for note in table_notes(table):
        console.print(escape(note), style="red" if note.startswith("Excluded") else "dim")


def column_blocks(table: Table, headers: list[Header], console: Console) -> list[list[Header]]:
    """Returns all columns in one block if the terminal is wide enough, else a block for each group and the rest."""
    unlimited = console.options.update(max_width=10_000)
    if Measurement.get(console, unlimited, grid(table, headers)).maximum <= console.width:
        return [headers]
    groups = [[header for header in headers if header.group == group] for group in (*table.groups, "")]
    return [block for block in groups if block]


def grid(table: Table, headers: list[Header]) -> Grid:
    """Returns our rows and then the published ones."""
    table_grid = Grid(header_style="bold", row_styles=["", "on gray11"])
    table_grid.add_column("method", overflow="fold")
    for header in headers:
        table_grid.add_column(escape(header.title), justify="right", style="cyan" if header.kind == "mean" else "")
    for row in table.rows:
        table_grid.add_row(row_name(row), *(cell_text(row, header, TERMINAL) for header in headers))
    if published := shown_published(table):
        table_grid.add_section()
        for row in published:
            name = f"[italic]{escape(row.name)}[/italic] {row.flags(table.checkpoint)}"
            table_grid.add_row(name, *(published_text(row, header) for header in headers))
    return table_grid


def row_name(row: Row) -> str:
    """Returns a row's name with its marks."""
    return escape(row.name) + f" [yellow]{row.marks}[/yellow]" * bool(row.marks)
