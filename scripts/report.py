"""The same as `moppa report`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("report", sys.argv[1:]))
