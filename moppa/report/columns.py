"""The task columns of a suite's table, read from the tasks' YAML files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from moppa.data.task import GROUPS
from moppa.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Column:
    """One task of a suite."""

    task: str
    title: str
    group: str


def suite_columns(suite: str, configs: Path) -> list[Column]:
    """Returns the tasks of a suite in the papers' order.

    Raises:
        UserError: if no task's YAML names the suite.
    """
    tasks = [task for task in read_tasks(configs) if task["suite"] == suite]
    if not tasks:
        raise UserError(
            f"no task in {configs / 'task'} belongs to the suite {suite!r}, which has results; restore its YAML files"
        )
    tasks.sort(key=lambda task: (GROUPS.index(task["group"]), task["column"]))
    return [Column(task=task["name"], title=task["title"], group=task["group"]) for task in tasks]


@lru_cache
def read_tasks(configs: Path) -> tuple[dict[str, Any], ...]:
    """Returns suite, name, title, group and column of every task that has a YAML file."""
    names = ("suite", "name", "title", "group", "column")
    tasks: list[Any] = [OmegaConf.load(path) for path in sorted((configs / "task").rglob("*.yaml"))]
    return tuple({name: task[name] for name in names} for task in tasks)


def task_groups(columns: Sequence[Column]) -> dict[str, list[str]]:
    """Returns the tasks of each group, in the order of the columns."""
    groups: dict[str, list[str]] = {}
    for column in columns:
        groups.setdefault(column.group, []).append(column.task)
    return groups
