"""The same as `moppa verify`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("verify", sys.argv[1:]))
