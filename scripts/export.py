"""The same as `moppa export`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("export", sys.argv[1:]))
