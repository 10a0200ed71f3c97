"""Runs the cells that a JSON file lists, without the tests' type checks, and prints how each ended."""

import contextlib
import io
import json
import sys
from pathlib import Path

from hydra.errors import CompactHydraException, MissingConfigException

from moppa.utils.config import UnexpectedError, one_line_errors
from run import run_cell
from tests.conftest import config_of


def outcome(overrides):
    """Returns what a user would see of a cell's error, `one line` or `traceback`, and its text."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            config = config_of(*overrides)
            with one_line_errors():
                run_cell(config)
        except UnexpectedError as error:
            return "traceback", str(error)
        except (CompactHydraException, MissingConfigException) as error:  # Hydra prints these without a traceback
            return "one line", f"{error}\n{error.__cause__ or ''}"
        except Exception as error:
            return "traceback", f"{type(error).__name__}: {error}"
    return "no error", ""


if __name__ == "__main__":
    print(json.dumps([outcome(overrides) for overrides in json.loads(Path(sys.argv[1]).read_text())]))
