"""The same as `moppa data prepare`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("data prepare", sys.argv[1:]))
