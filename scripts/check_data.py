"""The same as `moppa data check`."""

import sys

from moppa.cli.data_check import main

if __name__ == "__main__":
    sys.exit(main())
