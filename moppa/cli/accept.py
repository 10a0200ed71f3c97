"""Adds a pack of `moppa submit` to a results folder: moppa accept PACK.zip [RESULTS].

The pack must pass the checks of `moppa verify`. Its records go to RESULTS/submitted/SENDER/, and `moppa table` shows
them in rows of their own, with the sender's name. They do not mix with records of RESULTS, and `hparams=best` does not
read them.
"""

import argparse
import sys

from moppa.cli.errors import prints_errors
from moppa.cli.verify import verify
from moppa.record.pack import opened
from moppa.record.submitted import add_pack
from moppa.utils.errors import UserError
from moppa.utils.paths import ROOT, user_path


@prints_errors()
def main() -> int:
    """Prints the folder of the records, or returns 1 if they were not added."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=user_path, help="a pack of `moppa submit`")
    parser.add_argument("results", nargs="?", type=user_path, default=ROOT / "results", help="default: %(default)s")
    args = parser.parse_args()
    with opened(args.pack) as folder:
        if verify(folder, args.pack):
            raise UserError("nothing was added, because the pack cannot be verified")
        print(add_pack(folder, args.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
