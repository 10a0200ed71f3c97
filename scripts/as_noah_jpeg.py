"""The same as `moppa data noah-jpeg`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("data noah-jpeg", sys.argv[1:]))
