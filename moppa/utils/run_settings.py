"""The settings of `run` that concern the whole process."""

from collections.abc import Mapping
from typing import Any

from moppa.utils.device import configure_process, set_deterministic
from moppa.utils.network import set_connect_timeout


def apply_run_settings(run: Mapping[str, Any]) -> None:
    """Applies threads, matmul backend, determinism, kept memory and the timeout of connections to this process."""
    configure_process(threads=run["threads"], backend=run["matmul_backend"], keep_memory=run["keep_memory"])
    set_deterministic(run["deterministic"])
    set_connect_timeout(run["connect_timeout"])
