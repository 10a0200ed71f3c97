"""Where the configs lie, beside the package in a checkout or inside an installed wheel, and paths that users type."""

import sys
from pathlib import Path

from moppa.utils.errors import UserError

PACKAGE = Path(__file__).absolute().parent.parent
IS_CHECKOUT = (PACKAGE.parent / "configs" / "cell.yaml").is_file()
ROOT = PACKAGE.parent if IS_CHECKOUT else Path.cwd()  # what `results/` and `data/` are relative to
CONFIGS = (PACKAGE.parent if IS_CHECKOUT else PACKAGE) / "configs"
MOPPA_COMMAND = [sys.executable, "-m", "moppa.cli.main"]  # the command `moppa`, for a process started by another
RUN_COMMAND = [*MOPPA_COMMAND, "run"]


def user_path(path: str | Path) -> Path:
    """Returns a path in which `~` is the home folder. Shells replace it only at the start of a word.

    Raises:
        UserError: if the path starts with `~` and there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no home folder here for ~; write the whole path, or set HOME") from error
