"""The settings that name a row of composed methods: which methods they are, and what differs from their YAMLs."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from moppa.utils.flatten import flatten
from moppa.utils.method_yaml import read_method_yaml

Differing = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, str]]


def composed_overrides(
    method: Mapping[str, Any], yamls: Path, differing: Differing, *, is_tuned: bool
) -> dict[str, str] | None:
    """Returns which methods differ from those of the YAML, by their places, and their settings; None of any other.

    Settings of a method are named by its place, as in `a.rank`. Those of a tuned record are not listed.
    """
    parts = method["attach"].get("methods")
    if not isinstance(parts, Mapping):
        return None
    standard = read_if_present(yamls / f"{method['name']}.yaml").get("attach", {})
    standard_parts = standard.get("methods", {})
    overrides: dict[str, str] = {}
    for place, part in parts.items():
        own = standard_parts.get(place, {})
        if part["name"] != own.get("name"):
            overrides[place] = str(part["name"])
            own = read_if_present(yamls / f"{part['name']}.yaml")
        if not is_tuned:
            changed = differing(part, flatten({"layers": None, **own}))
            overrides |= {f"{place}.{name}": value for name, value in changed.items()}
    overrides |= {place: "none" for place in standard_parts if place not in parts}
    if not is_tuned:
        others = {name: value for name, value in method["attach"].items() if name != "methods"}
        overrides |= differing(others, flatten({**standard, "methods": {}}))
    return overrides


@lru_cache
def read_if_present(path: Path) -> Mapping[str, Any]:
    """Returns the settings in a method's YAML; none if there is no file."""
    return read_method_yaml(path) if path.exists() else {}
