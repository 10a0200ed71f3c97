"""The same as `moppa demo`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("demo", sys.argv[1:]))
