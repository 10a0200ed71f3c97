"""The same as `moppa pretrain`."""

import sys

from moppa.cli.pretrain import main

if __name__ == "__main__":
    sys.exit(main())
