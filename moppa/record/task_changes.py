"""Which settings of a record's task differ from the task's YAML. A changed task is not the task of that name."""

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from moppa.record.schema import identity_of
from moppa.utils.errors import UserError
from moppa.utils.flatten import flatten
from moppa.utils.yaml_files import read_yaml, yaml_files

DISPLAY = ("title", "column", "suite_version")
TEST_DIGESTS = "test_sha256"


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


def recorded_task_changes(record: Mapping[str, Any], configs: Path) -> list[str]:
    """Returns the settings in which the task of a record differs from its YAML.

    The digests of the test split may have been added to the YAML after the record was written. Of them, those count
    that differ from what the record says about the images that it read, and those that were overridden when it ran.
    """
    task, split = record["config"]["task"], record["split"]
    changes = {name for name in changed_task_settings(task, configs) if not name.startswith(TEST_DIGESTS)}
    official = task_definitions(configs).get((task.get("suite"), task.get("name")), {}).get(TEST_DIGESTS) or {}
    actual = split.get(TEST_DIGESTS) or {}
    changes |= {f"{TEST_DIGESTS}.{name}" for name, digest in official.items() if (actual.get(name) or digest) != digest}
    return sorted(changes | set(split.get("changes") or ()))


@lru_cache
def task_definitions(configs: Path) -> dict[tuple[Any, Any], dict[str, Any]]:
    """Returns the tasks of all readable YAMLs by suite and name."""
    tasks: dict[tuple[Any, Any], dict[str, Any]] = {}
    for path in yaml_files(configs / "task"):
        with suppress(UserError):  # an unfinished YAML concerns its own task at most
            node = {name: value for name, value in read_yaml(path).items() if name != "defaults"}
            tasks[str(node.get("suite")), str(node.get("name"))] = node
    return tasks
