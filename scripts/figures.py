"""The same as `moppa figures`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("figures", sys.argv[1:]))
