"""The same as `moppa figures`."""

import sys

from moppa.cli.figures import main

if __name__ == "__main__":
    sys.exit(main())
