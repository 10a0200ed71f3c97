"""Which settings of a record's task differ from the task's YAML. A changed task is not the task of that name."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from moppa.record.schema import identity_of
from moppa.utils.flatten import flatten

DISPLAY = ("title", "column")


def changed_task_settings(task: Mapping[str, Any], configs: Path) -> list[str]:
    """Returns the dotted names of the settings that differ from the YAML with this suite and name.

    Python paths and display names do not count. A task without a YAML in `configs` has nothing to differ from.
    """
    standard = task_definitions(configs).get((task.get("suite"), task.get("name")))
    if standard is None:
        return []
    current, original = (flatten(identity_of(node)) for node in (task, standard))
    names = sorted(current.keys() | original.keys())
    return [name for name in names if name not in DISPLAY and current.get(name) != original.get(name)]


@lru_cache
def task_definitions(configs: Path) -> dict[tuple[Any, Any], dict[str, Any]]:
    """Returns the tasks of all readable YAMLs by suite and name."""
    tasks: dict[tuple[Any, Any], dict[str, Any]] = {}
    for path in sorted((configs / "task").rglob("*.yaml")):
        try:
            node: Any = OmegaConf.to_container(OmegaConf.load(path))
        except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
            continue  # an unfinished YAML concerns its own task at most
        if isinstance(node, dict):
            node.pop("defaults", None)
            tasks[node.get("suite"), node.get("name")] = node
    return tasks
