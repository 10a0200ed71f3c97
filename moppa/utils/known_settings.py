"""Settings that do not exist: Hydra adds them with `+name=value`, and they would change nothing but a key."""

import difflib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from omegaconf import OmegaConf

from moppa.utils.errors import UserError
from moppa.utils.flatten import flatten
from moppa.utils.paths import CONFIGS

METHOD = {"name", "version", "fit", "attach"}  # the settings of the other groups are checked when they are instantiated


def check_known(config: Mapping[str, Any]) -> None:
    """Raises `UserError` if a resolved config has a setting at its root, in `run` or in `method` that nothing reads.

    The error names the most similar setting.
    """
    known = cell_settings()
    unknown = [name for name in config if name not in known]
    unknown += [f"run.{name}" for name in config["run"] if name not in known["run"]]
    unknown += [f"method.{name}" for name in config["method"] if name not in METHOD]
    if unknown:
        similar = most_similar(unknown[0], list(flatten(config)))
        raise UserError(
            f"there is no setting {unknown[0]}" + (f"; did you mean {' or '.join(similar)}?" if similar else "")
        )


@lru_cache
def cell_settings() -> dict[str, set[str]]:
    """Returns the names at the root of `cell.yaml`, each with the names inside it."""
    config: Any = OmegaConf.load(CONFIGS / "cell.yaml")
    groups = [name for entry in config.defaults if OmegaConf.is_dict(entry) for name in entry]
    names = {str(group): set() for group in groups if not str(group).startswith("override")}
    return names | {
        str(name): set(value) if OmegaConf.is_dict(value) else set()
        for name, value in config.items()
        if name not in ("defaults", "hydra")
    }


def most_similar(name: str, names: list[str]) -> list[str]:
    """Returns up to two names that a user may have meant: with the same last part, else spelled similarly."""
    last = name.rpartition(".")[2]
    same = [other for other in names if other.rpartition(".")[2] == last and other != name]
    return same[:2] or difflib.get_close_matches(name, [other for other in names if other != name], n=1)
