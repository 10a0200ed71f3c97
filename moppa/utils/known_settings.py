"""Settings that do not exist, which Hydra adds with `+name=value`, and settings that somebody's own YAML lacks."""

import difflib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from omegaconf import OmegaConf

from moppa.utils.config import yaml_of
from moppa.utils.errors import UserError
from moppa.utils.flatten import flatten
from moppa.utils.paths import CONFIGS

METHOD = {"name", "version", "fit", "attach"}  # the settings of the other groups are checked when they are instantiated


NEEDED = {  # the settings that every YAML of a group has; the other ones are checked when it is instantiated
    "backbone": ("_target_", "name", "weights"),
    "method": ("name", "attach"),
    "data": ("_target_", "name", "cache"),
    "task": ("_target_", "name", "version", "suite"),
    "train": ("_target_",),
    "protocol": ("_target_", "name", "train", "evaluate"),
    "logger": ("_target_",),
}
NAMES = ("name", "suite")


def check_known(config: Mapping[str, Any]) -> None:
    """Raises `UserError` if a resolved config lacks a setting, or has one that nothing reads.

    Those at its root, in `run` and in `method` are looked for. The error names the most similar setting.
    """
    check_complete(config)
    known = cell_settings()
    unknown = [name for name in config if name not in known]
    unknown += [f"run.{name}" for name in config["run"] if name not in known["run"]]
    unknown += [f"method.{name}" for name in config["method"] if name not in METHOD]
    if unknown:
        raise UserError(no_such_setting(unknown[0], list(flatten(config))))


def check_complete(config: Mapping[str, Any]) -> None:
    """Raises `UserError` if the YAML of a group lacks a setting, or has a name that is none."""
    for group, needed in NEEDED.items():
        node = config.get(group)
        if not isinstance(node, Mapping):
            raise UserError(f"{group}: its YAML holds no settings{yaml_of(group)}; copy a neighbor")
        for name in needed:
            if name not in node:
                raise UserError(f"{group}: its YAML lacks {name}{yaml_of(group)}; copy a neighbor")
        for name in NAMES:
            if name in needed and not (isinstance(node[name], str) and re.fullmatch(r"[^/\\\s][^/\\]*", node[name])):
                raise UserError(
                    f"{group}.{name}={node[name]!r}{yaml_of(group)}: it must be a name without slashes; YAML reads "
                    f"yes, no, on, off, null and 1e3 otherwise, so put it in quotes"
                )
    attach = config["method"]["attach"]
    if not isinstance(attach, Mapping) or "_target_" not in attach:
        raise UserError(f"method.attach: its YAML lacks _target_, the function that attaches it{yaml_of('method')}")


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


def no_such_setting(name: str, names: list[str]) -> str:
    """Returns the sentence about a setting that does not exist, with the most similar names."""
    similar = most_similar(name, names)
    return f"there is no setting {name}" + (f"; did you mean {' or '.join(similar)}?" if similar else "")


def most_similar(name: str, names: list[str]) -> list[str]:
    """Returns up to two names that a user may have meant: with the same last part, else spelled similarly."""
    last = name.rpartition(".")[2]
    same = [other for other in names if other.rpartition(".")[2] == last and other != name]
    return same[:2] or difflib.get_close_matches(name, [other for other in names if other != name], n=1)
