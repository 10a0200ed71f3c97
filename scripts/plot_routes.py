"""The same as `moppa routes`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("routes", sys.argv[1:]))
