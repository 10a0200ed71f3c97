"""The same as `moppa bench`."""

import sys

from moppa.cli.bench import main

if __name__ == "__main__":
    sys.exit(main())
