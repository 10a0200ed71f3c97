"""The same as `moppa pretrain`."""

import sys

from moppa.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("pretrain", sys.argv[1:]))
