"""The same as `moppa data check`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("data check", sys.argv[1:]))
