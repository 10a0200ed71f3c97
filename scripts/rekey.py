"""The same as `moppa rekey`."""

import sys

from moppa.cli.rekey import main

if __name__ == "__main__":
    sys.exit(main())
