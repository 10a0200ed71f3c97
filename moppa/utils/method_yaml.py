"""A method's YAML, with the methods that it composes: what Hydra reads, without Hydra."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

PLACE = "/method@"  # in a list of defaults: `/method@attach.methods.a: lora`


def read_method_yaml(path: Path) -> dict[str, Any]:
    """Returns what a method's YAML holds, the YAMLs in its list of defaults included."""
    return with_defaults(yaml.safe_load(path.read_text(encoding="utf-8")), path.parent)


def with_defaults(content: Mapping[str, Any], methods: Path) -> dict[str, Any]:
    """Returns a method's settings, in which the methods in `defaults` are in their places. `methods` has the YAMLs."""
    settings: dict[str, Any] = {}
    for entry in content.get("defaults", []):
        for place, name in entry.items() if isinstance(entry, Mapping) else ():
            if place.startswith(PLACE):
                node = settings
                for key in place.removeprefix(PLACE).split("."):
                    node = node.setdefault(key, {})
                node.update(read_method_yaml(methods / f"{name}.yaml"))
    return updated(settings, {name: value for name, value in content.items() if name != "defaults"})


def updated(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested settings with the values of others in their place."""
    merged = dict(settings)
    for name, value in others.items():
        inner = merged.get(name)
        merged[name] = updated(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged
