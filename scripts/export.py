"""The same as `moppa export`."""

import sys

from moppa.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
