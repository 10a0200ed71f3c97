"""The same as `moppa bench`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("bench", sys.argv[1:]))
