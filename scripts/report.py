"""The same as `moppa report`."""

import sys

from moppa.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
