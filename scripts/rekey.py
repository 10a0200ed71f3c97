"""The same as `moppa rekey`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("rekey", sys.argv[1:]))
