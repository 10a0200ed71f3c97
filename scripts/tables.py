"""The same as `moppa table`."""

import sys

from moppa.cli.table import main

if __name__ == "__main__":
    sys.exit(main())
