"""The same as `moppa probe`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("probe", sys.argv[1:]))
