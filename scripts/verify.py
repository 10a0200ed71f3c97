"""The same as `moppa verify`."""

import sys

from moppa.cli.verify import main

if __name__ == "__main__":
    sys.exit(main())
