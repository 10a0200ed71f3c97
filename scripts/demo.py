"""The same as `moppa demo`."""

import sys

from moppa.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
