"""Nested configs as flat ones, and dotted names."""

from collections.abc import Iterable, Mapping
from typing import Any

HYDRA_KEYS = ("_target_", "_partial_", "_recursive_")  # where code lives is not a setting


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the settings of a nested config by their dotted names, without `HYDRA_KEYS`."""
    settings: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            settings |= flatten(value, f"{prefix}{name}.")
        elif name not in HYDRA_KEYS:
            settings[f"{prefix}{name}"] = value
    return settings


def is_inside(name: str, owners: Iterable[str]) -> bool:
    """Returns whether a dotted name is one of `owners`, or lies below one of them."""
    return any(name == owner or name.startswith(f"{owner}.") for owner in owners)
