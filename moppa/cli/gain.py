"""Shows the gain of a row over its control by task, with intervals: moppa gain TABLE ROW CONTROL [--out FOLDER].

TABLE is SUITE-BACKBONE-PROTOCOL, as the files in results/tables/; ROW and CONTROL are names of its rows, or methods.
Prints the gains as a Markdown table. With --out also draws them, as PNG and SVG.
"""

import argparse
import sys

from moppa.cli.errors import prints_errors
from moppa.report.build import no_records, read_tables
from moppa.report.gain import gain_chart, gain_markdown, gains
from moppa.report.plots.figure_files import write_figure
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS, ROOT, user_path


@prints_errors()
def main() -> int:
    """Prints the table and the paths of the figures; returns 1 if there is no such table or row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", metavar="TABLE")
    parser.add_argument("row", metavar="ROW")
    parser.add_argument("control", metavar="CONTROL")
    parser.add_argument("--results", type=user_path, default=ROOT / "results", help="default: %(default)s")
    parser.add_argument("--out", type=user_path, metavar="FOLDER", help="the folder of the figures")
    args = parser.parse_args()
    tables = {table.name: table for table in read_tables(args.results, CONFIGS)[0]}
    if not tables:
        raise no_records(args.results)
    if args.table not in tables:
        raise UserError(f"there is no table {args.table!r}; choose from {', '.join(tables)}")
    found = gains(tables[args.table], args.row, args.control)
    print(gain_markdown(found, args.row, args.control), end="")
    if args.out:
        chart = gain_chart(found, args.row, args.control)
        print(*write_figure(chart, args.out / f"{args.table}-gain"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
