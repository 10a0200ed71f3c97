"""The same as `moppa routes`."""

import sys

from moppa.cli.routes import main

if __name__ == "__main__":
    sys.exit(main())
