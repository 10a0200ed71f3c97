"""Keeps tables that are quoted in Markdown files up to date. A quoted table is between two comments:

<!-- table mini-vit_micro-final -->
...
<!-- end of table -->
"""

import re
from collections.abc import Sequence
from pathlib import Path

from moppa.report.render.markdown import markdown_grid
from moppa.report.table import Table
from moppa.utils.atomic import atomic_write

QUOTED = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def updated_text(text: str, tables: Sequence[Table]) -> str:
    """Returns a text in which every quoted table is replaced by its current rows; unknown tables are unchanged."""
    grids = {table.name: markdown_grid(table) for table in tables}

    def replacement(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        return f"{start}\n{grids[name]}\n\n{end}" if name in grids else match[0]

    return QUOTED.sub(replacement, text)


def update_readme(path: Path, tables: Sequence[Table]) -> bool:
    """Updates the quoted tables in a file, and returns whether it changed."""
    before = path.read_text(encoding="utf-8")
    after = updated_text(before, tables)
    if after != before:
        with atomic_write(path) as temporary:
            temporary.write_text(after, encoding="utf-8")
    return after != before
