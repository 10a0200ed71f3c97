"""How a cell ends for a user: what a process of `tests.python_process` calls, without the type checks of the tests."""

import contextlib
import gc
import io
import os

from hydra.errors import CompactHydraException, MissingConfigException

from moppa.utils.config import UnexpectedError, one_line_errors
from run import run_cell
from tests.conftest import ROOT, config_of


def start(environment):
    """Prepares the process."""
    gc.freeze()
    os.environ.update(environment)
    os.chdir(ROOT)


def outcome(overrides):
    """Returns what a user would see of a cell's error, `one line` or `traceback`, its text, and what was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        kind, text = error_of(overrides)
    return kind, text, printed.getvalue()


def error_of(overrides):
    """Returns the kind of a cell's error and its text."""
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
