"""The same as `moppa table`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("table", sys.argv[1:]))
