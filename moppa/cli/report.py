"""Writes the page results/report/index.html from the records, and merging.html from those of merges.

    python scripts/report.py [RESULTS]

The page opens from its folder, without a server or a network.
"""

import argparse
import sys

from moppa.cli.errors import prints_errors
from moppa.report.build import list_excluded, no_records, read_tables
from moppa.report.merge_page import write_merge_page
from moppa.report.merging import merge_tables, read_merges
from moppa.report.page import write_page
from moppa.utils.paths import CONFIGS, ROOT, user_path


@prints_errors()
def main() -> int:
    """Prints the paths of the page; returns 1 if a record is wrong and 3 if records were excluded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results", nargs="?", type=user_path, default=ROOT / "results", help="the folder of the results"
    )
    args = parser.parse_args()
    tables, excluded = read_tables(args.results, CONFIGS)
    merges, excluded_merges = read_merges(args.results)
    merged, excluded = merge_tables(merges), [*excluded, *excluded_merges]
    if not tables and not merged and not excluded:
        raise no_records(args.results)
    folder = args.results / "report"
    print(*write_page(tables, folder, merged=merged), *write_merge_page(merged, folder), sep="\n")
    print(list_excluded(excluded, args.results), end="", file=sys.stderr)
    return 3 if excluded else 0


if __name__ == "__main__":
    sys.exit(main())
