"""The same as `moppa compare`."""

import sys

from moppa.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
