"""Where the seconds of one cell go."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from moppa.record.schema import read_record
from moppa.utils.errors import UserError


def cell_phases(root: Path, words: Sequence[str]) -> dict[str, float]:
    """Runs one cell, run.py with these words, in a fresh process, and gives its seconds by phase.

    `start` is all that the record does not count: imports, the config, the model, its weights, and the writing.

    Raises:
        UserError: where the cell fails, with what it said last.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(root / "run.py"), *words, f"run.results={folder}"]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=root, text=True, capture_output=True)
        total = time.perf_counter() - began
        if done.returncode:
            told = done.stderr.strip().splitlines()
            reason = next((line for line in told if line.startswith("error: ")), told[-1])
            raise UserError(f"run.py {' '.join(words)} failed: {reason.removeprefix('error: ')}")
        [path] = (Path(folder) / "records").rglob("seed*.json")
        seconds = read_record(path)["seconds"]
    return {"start": total - sum(seconds.values()), **seconds, "all": total}
