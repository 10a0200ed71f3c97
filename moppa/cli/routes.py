"""Draws what a MoPPA cell learned: python scripts/plot_routes.py results/records/.../seed0.json [--out FOLDER].

Two pictures, PNG and SVG: the mixing weights over depth and epochs, and the impulse response of each block's operator
at the end of the training, which is what one token in the middle of the grid spreads to its neighbors.
"""

import argparse
import sys
from pathlib import Path

from moppa.record.schema import read_record
from moppa.report.plots.routes import blocks_with_routes, responses, routes
from moppa.utils.errors import UserError


def main() -> int:
    """Prints the paths of the pictures; 1 where the record holds no routes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--out", type=Path, help="where the pictures go; beside the record by default")
    asked = parser.parse_args()
    try:
        told = blocks_with_routes(asked.record)
        priors = read_record(asked.record)["config"]["method"]["attach"]["priors"]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    out = asked.out or asked.record.parent
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in {"routes": routes(told, priors), "responses": responses(told)}.items():
        for suffix in ("png", "svg"):
            path = out / f"{asked.record.stem}-{name}.{suffix}"
            figure.savefig(path, dpi=150)
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
