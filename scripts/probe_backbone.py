"""The same as `moppa probe`."""

import sys

from moppa.cli.probe import main

if __name__ == "__main__":
    sys.exit(main())
