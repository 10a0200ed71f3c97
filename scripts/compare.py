"""The same as `moppa compare`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("compare", sys.argv[1:]))
