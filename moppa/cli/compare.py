"""Says what the differences in the tables are worth: python scripts/compare.py [RESULTS] [--baseline ROW].

Writes results/tables/SUITE-BACKBONE-PROTOCOL-compare.md (intervals, paired tests, ranks over tasks) and
results/tables/published.md (published rows with their means recomputed).
"""

import argparse
import sys
from pathlib import Path

from moppa.report import published
from moppa.report.build import list_excluded, read_tables
from moppa.report.columns import suite_columns, task_groups
from moppa.report.render.comparison import comparison, published_page
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS, ROOT


def main() -> int:
    """Prints the path of every file written; 1 where a record or a row is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=ROOT / "results")
    parser.add_argument(
        "--baseline", help="the row, by name or method, that others are compared with; the smallest if not said"
    )
    asked = parser.parse_args()
    try:
        tables, left_out = read_tables(asked.results, CONFIGS)
        texts = {f"{table.name}-compare": comparison(table, baseline=asked.baseline) for table in tables if table.rows}
        groups = task_groups(suite_columns("vtab1k", CONFIGS))
        if rows := published.load(asked.results / "published.csv", groups):
            texts["published"] = published_page(rows, [task for members in groups.values() for task in members])
        for name, text in texts.items():
            path = asked.results / "tables" / f"{name}.md"
            with atomic_write(path) as temporary:
                temporary.write_text(text)
            print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(list_excluded(left_out, asked.results), end="", file=sys.stderr)
    return 3 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
