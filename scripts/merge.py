"""The same as `moppa merge`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("merge", sys.argv[1:]))
