"""Regenerates results/tables/ from results/records/: python scripts/tables.py [RESULTS_FOLDER]."""

import sys
from pathlib import Path

from moppa.errors import UserError
from moppa.report.table import write_tables

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Prints the path of every table written; 1 where a record cannot be read."""
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results"
    try:
        written = write_tables(results, ROOT / "configs")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(map(str, written)) or f"no records in {results / 'records'}: run a cell first (python run.py ...)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
