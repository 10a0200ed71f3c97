"""Draws the mixing weights and impulse responses of a MoPPA cell, as PNG and SVG.

    python scripts/plot_routes.py results/records/.../seed0.json [--out FOLDER]

The first figure shows the mixing weights over blocks and epochs. The second shows the impulse response of each block's
operator after the training: how a token in the middle of the grid spreads to its neighbors.
"""

import argparse
import sys

from moppa.cli.errors import prints_errors
from moppa.report.plots.charts import ROUTE_CHARTS
from moppa.report.plots.figure_files import write_figure
from moppa.report.plots.routes import read_routes
from moppa.utils.paths import user_path


@prints_errors()
def main() -> int:
    """Prints the paths of the figures; returns 1 if the record holds no routes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=user_path, help="the record of the cell, a seed*.json")
    parser.add_argument("--out", type=user_path, metavar="FOLDER", help="folder of the figures (default: the record's)")
    args = parser.parse_args()
    folder = args.out or args.record.parent
    routes = read_routes(args.record)
    for name, chart in ROUTE_CHARTS.items():
        spec = chart({args.record.stem: routes}, str(args.record))
        print(*write_figure(spec, folder / f"{args.record.stem}-{name}"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
