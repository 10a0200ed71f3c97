"""Makes the page results/report/index.html from results/records/: python scripts/report.py [RESULTS].

The folder works from file:// without a network.
"""

import argparse
import sys
from pathlib import Path

from moppa.report.build import list_excluded, read_tables
from moppa.report.page import write_page
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS, ROOT


def main() -> int:
    """Prints the paths written; 1 where a record cannot be shown, 3 where records were left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=ROOT / "results")
    asked = parser.parse_args()
    try:
        tables, left_out = read_tables(asked.results, CONFIGS)
        print(*write_page(tables, asked.results / "report"), sep="\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(list_excluded(left_out, asked.results), end="", file=sys.stderr)
    return 3 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
