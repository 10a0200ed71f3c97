"""Nested configs as flat ones."""

from collections.abc import Mapping
from typing import Any

HYDRA_KEYS = ("_target_", "_partial_")  # where code lives is not a setting


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the settings of a nested config by their dotted names, without `HYDRA_KEYS`."""
    settings: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            settings |= flatten(value, f"{prefix}{name}.")
        elif name not in HYDRA_KEYS:
            settings[f"{prefix}{name}"] = value
    return settings
