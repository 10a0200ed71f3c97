"""The same as `moppa sweep`."""

import sys

from moppa.cli.sweep import main

if __name__ == "__main__":
    sys.exit(main())
