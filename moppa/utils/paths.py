"""Where the configs lie: beside the package in a checkout, inside it in an installed wheel."""

import sys
from pathlib import Path

PACKAGE = Path(__file__).absolute().parent.parent
IS_CHECKOUT = (PACKAGE.parent / "configs" / "cell.yaml").is_file()
ROOT = PACKAGE.parent if IS_CHECKOUT else Path.cwd()  # what `results/` and `data/` are relative to
CONFIGS = (PACKAGE.parent if IS_CHECKOUT else PACKAGE) / "configs"
MOPPA_COMMAND = [sys.executable, "-m", "moppa.cli.main"]  # the command `moppa`, for a process started by another
RUN_COMMAND = [*MOPPA_COMMAND, "run"]
