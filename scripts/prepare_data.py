"""The same as `moppa data prepare`."""

import sys

from moppa.cli.data_prepare import main

if __name__ == "__main__":
    sys.exit(main())
