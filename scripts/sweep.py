"""The same as `moppa sweep`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("sweep", sys.argv[1:]))
