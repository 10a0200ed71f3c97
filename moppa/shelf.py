"""A record as it is read, by programs that need nothing else of the harness."""

import json
from pathlib import Path
from typing import Any

from moppa.errors import UserError

REQUIRED = (
    "suite",
    "backbone",
    "method",
    "task",
    "task_version",
    "key",
    "seed",
    "protocol",
    "correct",
    "total",
    "config",
    "split",
    "weights",
    "preprocess",
    "dtype",
    "device",
    "versions",
    "git",
    "trainable_params",
    "head_params",
    "seconds",
    "peak_memory_bytes",
    "curve",
)


def read(path: Path) -> dict[str, Any]:
    """A record, or an error that names the file."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a record: it is not JSON ({error}); delete it and run its cell again"
        ) from error
    if missing := [name for name in REQUIRED if name not in record] if isinstance(record, dict) else list(REQUIRED):
        raise UserError(f"{path} is not a record: it lacks {', '.join(missing[:3])}; delete it and run its cell again")
    return record
