"""Keeps what Markdown files quote from the tables in `results/tables/` up to date, between two comments.

A table, with all columns and rows or with some:

<!-- table mini-vit_micro-final -->
...
<!-- end of table -->
<!-- table mini-vit_micro-final; rows lora, moppa; Digits; Parameters (M) -->
...
<!-- end of table -->

A number of one row and column, in a sentence: <!-- number mini-vit_micro-final; lora; Digits -->96.2 ± 0.8<!-- end -->

FOLDER/NAME is a table of `results/FOLDER/`, which holds the records of an experiment of its own.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from moppa.report.render.markdown import grid
from moppa.utils.atomic import write_text
from moppa.utils.errors import UserError

QUOTED = re.compile(r"(<!-- table ([^;\s]+)((?:; [^;]+?)*) -->\n).*?(<!-- end of table -->)", re.DOTALL)
NUMBER = re.compile(r"(<!-- number ([^;\s]+); ([^;]+?); ([^;]+?) -->).*?(<!-- end -->)")
CELL = re.compile(r"(?<!\\)\|")
MARKS = " *†‡§¶◊"


def updated_text(text: str, tables: Path) -> str:
    """Returns a text in which what is quoted is replaced by what the tables say; unknown tables are unchanged.

    Raises:
        UserError: if a table has no such row or column.
    """

    def table(match: re.Match[str]) -> str:
        start, name, selected, end = match.groups()
        lines = read_grid(table_path(name, tables))
        if not lines:
            return match[0]
        _, *columns = selected.split("; ")
        if columns and columns[0].startswith("rows "):
            lines = select_rows(lines, columns.pop(0).removeprefix("rows ").split(", "), name)
        indices = [column_index(lines, title, name) for title in columns] or range(1, len(lines[0]))
        titles, *rows = [[line[0], *(line[index] for index in indices)] for line in lines]
        return f"{start}\n{grid(titles, rows)}\n\n{end}"

    def number(match: re.Match[str]) -> str:
        start, name, row, title, end = match.groups()
        lines = read_grid(table_path(name, tables))
        if not lines:
            return match[0]
        _, found, *_ = select_rows(lines, [row], name)
        return start + re.sub(r"\*\*|</?ins>", "", found[column_index(lines, title, name)]) + end

    return NUMBER.sub(number, QUOTED.sub(table, text))


def table_path(name: str, tables: Path) -> Path:
    """Returns the file of a table: NAME is in `tables`, and FOLDER/NAME in the tables of that folder beside it."""
    folder, _, base = name.rpartition("/")
    return (tables.parent / folder / "tables" if folder else tables) / f"{base}.md"


def read_grid(path: Path) -> list[list[str]]:
    """Returns the cells of the first table in a Markdown file, its header first; nothing without a file."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in CELL.split(line)[1:-1]] for line in lines]
    return [cells[0], *cells[2:]]  # without the rule


def select_rows(lines: Sequence[list[str]], rows: Sequence[str], table: str) -> list[list[str]]:
    """Returns the header and the lines of the named rows, in the order of the table."""
    names = [line[0].strip(MARKS) for line in lines[1:]]
    if missing := [row for row in rows if row not in names]:
        raise UserError(f"the table {table} has no row {missing[0]!r}; its rows are {', '.join(names)}")
    return [lines[0], *(line for line, name in zip(lines[1:], names, strict=True) if name in rows)]


def column_index(lines: Sequence[Sequence[str]], title: str, table: str) -> int:
    """Returns the position of a column."""
    titles = [text.strip("*") for text in lines[0]]
    if title not in titles:
        raise UserError(f"the table {table} has no column {title!r}; its columns are {', '.join(titles[1:])}")
    return titles.index(title)


def quoting_files(root: Path) -> list[Path]:
    """Returns the files of a checkout that may quote tables."""
    return sorted([*root.glob("README.md"), *(root / "docs").rglob("*.md")])


def update_readme(path: Path, tables: Path) -> bool:
    """Updates what a file quotes, and returns whether it changed."""
    before = path.read_text(encoding="utf-8")
    after = updated_text(before, tables)
    if after != before:
        write_text(path, after)
    return after != before
