"""The same as `moppa continual`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("continual", sys.argv[1:]))
