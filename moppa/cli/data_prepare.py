"""Prepares tasks for training, each image decoded and resized once: python scripts/prepare_data.py task=all.

task=eurosat,cifar100 takes some. The other words are those of run.py (data.dir=DIR, data.cache=DIR, backbone=NAME,
backbone.image_size=112), which then finds what was prepared; size=224 interpolation=bicubic says it without a backbone.
"""

import sys
from pathlib import Path
from typing import Any

from hydra.errors import HydraException

from moppa.data import cache
from moppa.data.cli import image_format, parse_args, tasks_and_sources, vtab_tasks
from moppa.data.disk_space import SPLITS, check_free_space, split_bytes
from moppa.data.prepare import ensure_prepared
from moppa.data.split import split_folder
from moppa.data.task import Task
from moppa.utils.config import compose_config
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS


def main() -> int:
    """Prints what became of every task; 1 where one of them is not prepared."""
    asked, overrides = parse_args(sys.argv[1:])
    if "task" not in asked:
        print(f"{__doc__}\ntasks: {', '.join(vtab_tasks(CONFIGS))}", file=sys.stderr)
        return 2
    names = vtab_tasks(CONFIGS) if asked["task"] == "all" else asked["task"].split(",")
    try:
        made = tasks_and_sources(CONFIGS, names, overrides)
        look = image_format(compose_config([f"task={names[0]}", *overrides]), asked)
        needed = sum(missing_bytes(task, source, look) for task, source in made)
        check_free_space(f"{len(made)} tasks: what is missing at {look['size']} px", needed, Path(made[0][1].cache))
    except (HydraException, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    failed = [task.name for task, source in made if not is_prepared(task, source, look)]
    if failed:
        print(f"not prepared: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def missing_bytes(task: Task, source: cache.Source, look: dict[str, Any]) -> int:
    """What the parts of a task that are not in the store will take."""
    absent = [part for part in SPLITS if not split_folder(task, part, source, **look).exists()]
    return sum(split_bytes(task, part, size=look["size"]) for part in absent)


def is_prepared(task: Task, source: cache.Source, look: dict[str, Any]) -> bool:
    """Whether all parts of a task are in the store after this; says so, or why not."""
    try:
        folders = [ensure_prepared(task, part, source, **look) for part in SPLITS]
        verdict = cache.split_check(task, source, **look)["verdict"]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    print(f"{task.name}: {1000 + task.num_test:,} images at {look['size']} px, {verdict}, in {folders[0].parent}")
    return True


if __name__ == "__main__":
    sys.exit(main())
