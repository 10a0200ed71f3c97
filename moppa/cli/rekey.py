"""Gives the records of the first format today's keys: moppa rekey [RESULTS].

Records, predictions and trained tensors move to the folders of their new keys. Everything is checked first; nothing but
the key, the renamed settings and the links to tune records changes in a record. Running it again changes nothing.
"""

import argparse
import sys

from moppa.cli.errors import prints_errors
from moppa.record.rekey import rekey
from moppa.utils.errors import UserError
from moppa.utils.paths import ROOT, user_path


@prints_errors()
def main() -> int:
    """Prints how many records were re-keyed and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=user_path, default=ROOT / "results", help="the results folder")
    arguments = parser.parse_args()
    if not (arguments.results / "records").is_dir():
        raise UserError(f"there are no records in {arguments.results / 'records'}: give a results folder")
    moves = rekey(arguments.results)
    print(f"{len(moves)} records re-keyed in {arguments.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
