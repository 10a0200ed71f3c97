"""The resolver `for_task`, with which a YAML gives a setting a value for each task."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moppa.utils.errors import UserError
from moppa.utils.flatten import flatten
from moppa.utils.yaml_files import read_yaml


def value_for_task(task: str, values: Mapping[str, Any]) -> Any:
    """Returns the value of a task for `${for_task:${task.name},{TASK: VALUE, ..., default: VALUE}}` in a YAML."""
    if task not in values and "default" not in values:
        raise UserError(f"task={task}: this recipe has values for {', '.join(values)} alone; choose another recipe")
    return values.get(task, values.get("default"))


OmegaConf.register_new_resolver("for_task", value_for_task, replace=True)


@lru_cache
def recipe_settings(path: Path, task: str) -> Mapping[str, Any]:
    """Returns the settings of a recipe's YAML for a task, with dotted names; none if it cannot be read for it."""
    if not path.is_file():
        return {}
    try:
        content = {name: value for name, value in read_yaml(path).items() if name != "defaults"}
        resolved: Any = OmegaConf.to_container(OmegaConf.create({**content, "task": {"name": task}}), resolve=True)
    except (UserError, OmegaConfBaseException):
        return {}
    return flatten(resolved)
