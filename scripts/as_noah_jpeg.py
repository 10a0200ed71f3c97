"""The same as `moppa data noah-jpeg`."""

import sys

from moppa.cli.data_noah_jpeg import main

if __name__ == "__main__":
    sys.exit(main())
