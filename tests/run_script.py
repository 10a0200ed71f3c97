"""Runs a script as a user starts it."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
import traceback
from unittest import mock

from tests.conftest import ROOT


def script(name, *words, columns=100, measured=False):
    """Runs `python scripts/NAME.py WORDS` in a terminal of this width, and returns the completed process.

    It runs in the process of the tests, because imports take six seconds in a fresh one, unless it is `measured`.
    """
    command = [str(ROOT / "scripts" / f"{name}.py"), *map(str, words)]
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": str(columns)}
    if measured:
        return subprocess.run(
            [sys.executable, "-W", "error", *command],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", command),
        mock.patch.dict("os.environ", environment),
    ):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        except Exception:
            traceback.print_exc()
            status = 1
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())
