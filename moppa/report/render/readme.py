"""Tables inside a text: what stands between two comments is what the records say, whenever `make table` was run.

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
    """The text with every table that it names as it is now; one that is not among them stays as it stands."""
    grids = {table.name: markdown_grid(table) for table in tables}

    def quote(found: re.Match[str]) -> str:
        start, name, end = found.groups()
        return f"{start}\n{grids[name]}\n\n{end}" if name in grids else found[0]

    return QUOTED.sub(quote, text)


def update_readme(path: Path, tables: Sequence[Table]) -> bool:
    """Renews the tables in a file; whether it was changed."""
    before = path.read_text()
    after = updated_text(before, tables)
    if after != before:
        with atomic_write(path) as temporary:
            temporary.write_text(after)
    return after != before
