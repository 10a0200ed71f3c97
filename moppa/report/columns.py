"""The task columns of a suite's table, read from the tasks' YAML files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from moppa.data.task import GROUPS
from moppa.utils import validate
from moppa.utils.errors import SettingError, UserError
from moppa.utils.yaml_files import read_yaml, yaml_files

FIRST_VERSION = {"suite_version": 1}  # of a suite; tasks that joined it later name the version that they joined in
NEEDED = ("suite", "name", "title", "group", "column", "num_test", "num_classes")  # of a task's YAML


@dataclass(frozen=True, kw_only=True)
class Column:
    """One task of a suite."""

    task: str
    title: str
    group: str
    suite_version: int = 1  # the first one that has the task


def suite_columns(suite: str, configs: Path) -> list[Column]:
    """Returns the tasks of a suite in the papers' order, those of its newest version.

    Raises:
        UserError: if no task's YAML names the suite.
    """
    read, _ = read_tasks(configs)
    tasks = [task for task in read if task["suite"] == suite]
    if not tasks:
        raise UserError(
            f"no task that can be read in {configs / 'task'} belongs to the suite {suite!r}, which has results; "
            f"restore its YAML files"
        )
    tasks.sort(key=lambda task: (GROUPS.index(task["group"]), task["column"]))
    return [
        Column(task=task["name"], title=task["title"], group=task["group"], suite_version=task["suite_version"])
        for task in tasks
    ]


def suite_versions(suite: str, configs: Path) -> dict[str, list[Column]]:
    """Returns the tasks of each version of a suite by its name in tables: mini, mini_v2, and so on.

    A version has the tasks of the versions before it, so that a mean over tasks is always one over the same tasks.

    Raises:
        UserError: as `suite_columns`.
    """
    columns = suite_columns(suite, configs)
    return {
        suite if version == 1 else f"{suite}_v{version}": [
            column for column in columns if column.suite_version <= version
        ]
        for version in sorted({column.suite_version for column in columns})
    }


@lru_cache
def read_tasks(configs: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns suite, name, title, group, column and version of every task's YAML, and why others cannot be read."""
    tasks, problems = [], []
    for path in yaml_files(configs / "task"):
        try:
            tasks.append(read_task(path))
        except UserError as error:
            problems.append(str(error))
    return tasks, problems


def read_task(path: Path) -> dict[str, Any]:
    """Returns what a table needs of a task.

    Raises:
        UserError: if its YAML cannot be read, lacks one of the settings, or has a value of another kind.
    """
    settings = FIRST_VERSION | read_yaml(path)
    if missing := [name for name in NEEDED if name not in settings]:
        raise UserError(f"{path} lacks {', '.join(missing)}: complete it, as its neighbors")
    try:
        for name in ("suite", "name", "title"):
            validate.text(name, settings[name])
        validate.one_of("group", settings["group"], GROUPS)
        for name, minimum in {"column": 0, "num_test": 1, "num_classes": 2, "suite_version": 1}.items():
            validate.integer(name, settings[name], minimum=minimum)
    except SettingError as error:
        raise UserError(f"{path}: {error}") from error
    return {name: settings[name] for name in ("suite", "name", "title", "group", "column", "suite_version")}


def task_groups(columns: Sequence[Column]) -> dict[str, list[str]]:
    """Returns the tasks of each group, in the order of the columns."""
    groups: dict[str, list[str]] = {}
    for column in columns:
        groups.setdefault(column.group, []).append(column.task)
    return groups
