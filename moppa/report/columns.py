"""The columns of a suite's table, as the tasks' YAMLs describe them."""

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
    """The tasks of a suite in the papers' order."""
    tasks = [task for task in tasks_of(configs) if task["suite"] == suite]
    if not tasks:
        raise UserError(f"records of suite {suite!r} have no tasks in {configs / 'task'}: their YAMLs are missing")
    tasks.sort(key=lambda task: (GROUPS.index(task["group"]), task["column"]))
    return [Column(task=task["name"], title=task["title"], group=task["group"]) for task in tasks]


@lru_cache
def tasks_of(configs: Path) -> tuple[dict[str, Any], ...]:
    """Suite, name, title, group and column of every task there is a YAML of."""
    wanted = ("suite", "name", "title", "group", "column")
    loaded = [OmegaConf.load(path) for path in sorted((configs / "task").rglob("*.yaml"))]
    return tuple({name: task[name] for name in wanted} for task in loaded)


def task_groups(columns: list[Column]) -> dict[str, list[str]]:
    """The tasks of each group, in the columns' order."""
    groups: dict[str, list[str]] = {}
    for column in columns:
        groups.setdefault(column.group, []).append(column.task)
    return groups
