"""Regenerates results/tables/ from results/records/ and prints them: python scripts/tables.py [RESULTS] [--strict].

The tables of results/ that README.md and docs/ quote are renewed there, too.

Exit status: 0; 1 where nothing was written (under --strict also where a record had to be left out); 3 where tables were
written without records that had to be left out, each of which is named.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from moppa.report.build import list_excluded, write_tables
from moppa.report.render.readme import update_readme
from moppa.report.render.terminal import show
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS, ROOT

LEFT_OUT = 3


def main() -> int:
    """Prints every table and the paths of its files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=ROOT / "results")
    parser.add_argument("--strict", action="store_true", help="write nothing where a record has to be left out")
    parser.add_argument("--quiet", action="store_true", help="print the paths alone")
    asked = parser.parse_args()
    try:
        made = write_tables(asked.results, CONFIGS, strict=asked.strict)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    is_ours = asked.results.resolve() == ROOT.resolve() / "results"
    quoting = sorted([*ROOT.glob("README.md"), *(ROOT / "docs").glob("*.md")]) if is_ours else []
    renewed = [path for path in quoting if update_readme(path, made.tables)]
    console = Console(soft_wrap=False)
    for table in made.tables if not asked.quiet else []:
        show(table, console)
    print(
        "\n".join(map(str, made.written + renewed))
        or f"no records in {asked.results / 'records'}: run a cell first (python run.py ...)"
    )
    print(list_excluded(made.left_out, asked.results), end="", file=sys.stderr)
    if made.left_out and not made.written:
        return 1
    return LEFT_OUT if made.left_out else 0


if __name__ == "__main__":
    sys.exit(main())
