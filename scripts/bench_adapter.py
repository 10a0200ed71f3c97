"""The same as `moppa bench-adapter`."""

import sys

from moppa.cli.bench_adapter import main

if __name__ == "__main__":
    sys.exit(main())
