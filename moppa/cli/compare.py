"""Writes how significant the differences in the tables are.

Writes results/tables/SUITE-BACKBONE-PROTOCOL-compare.md (intervals, paired tests, ranks over tasks) and
results/tables/published.md (published rows with recomputed means).

Exit status: 0; 1 if nothing was written; 3 if records had to be excluded, each of which is listed with the reason.
"""

import argparse
import sys
from pathlib import Path

from moppa.cli.errors import prints_errors
from moppa.report import published
from moppa.report.build import list_excluded, no_records, read_tables
from moppa.report.columns import suite_columns
from moppa.report.comparison import baselines, without_baseline
from moppa.report.render.comparison import comparison, published_page
from moppa.utils.atomic import write_text
from moppa.utils.paths import CONFIGS, ROOT, user_path

EXCLUDED = 3  # exit status


@prints_errors()
def main() -> int:
    """Prints the path of every file written and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=user_path, default=ROOT / "results", help="default: %(default)s")
    parser.add_argument(
        "--baseline",
        help="name or method of the row that the others of each table are compared with; default, and in a table "
        "without it: the row with the fewest parameters",
    )
    args = parser.parse_args()
    tables, excluded = read_tables(args.results, CONFIGS)
    tables = [table for table in tables if table.rows]
    names = baselines(tables, args.baseline)
    texts = {f"{table.name}-compare": comparison(table, baseline=names[table.name]) for table in tables}
    if pages := published_pages(args.results / "published.csv"):
        texts["published"] = "\n".join(pages)
    if not texts:
        raise no_records(args.results)
    for name, text in texts.items():
        path = args.results / "tables" / f"{name}.md"
        write_text(path, text)
        print(path)
    print(without_baseline(names, args.baseline), end="", file=sys.stderr)
    print(list_excluded(excluded, args.results), end="", file=sys.stderr)
    return EXCLUDED if excluded else 0


def published_pages(file: Path) -> list[str]:
    """Returns one page for each suite that has published rows."""
    return [
        published_page(suite, rows, [column.task for column in suite_columns(suite, CONFIGS)])
        for suite, rows in published.load(file, CONFIGS).items()
    ]


if __name__ == "__main__":
    sys.exit(main())
