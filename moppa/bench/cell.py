"""The time of one cell by phase."""

import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from moppa.record.schema import read_record
from moppa.utils.errors import UserError
from moppa.utils.paths import RUN_COMMAND


def cell_phases(overrides: Sequence[str]) -> dict[str, float]:
    """Runs one cell in a fresh process and returns its seconds by phase.

    `start` is everything that the record does not count: imports, config, model, weights, and writing.

    Raises:
        UserError: if the cell fails, with its error message.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [*RUN_COMMAND, *overrides, f"run.results={folder}"]
        began = time.perf_counter()
        done = subprocess.run(command, text=True, capture_output=True)
        total = time.perf_counter() - began
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            reason = next((line for line in lines if line.startswith("error: ")), lines[-1])
            raise UserError(f"run.py {' '.join(overrides)} failed: {reason.removeprefix('error: ')}")
        [path] = (Path(folder) / "records").rglob("seed*.json")
        seconds = read_record(path)["seconds"]
    return {"start": total - sum(seconds.values()), **seconds, "all": total}
