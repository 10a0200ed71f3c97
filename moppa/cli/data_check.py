"""What of the 19 tasks is at hand, and whether it is the official data: python scripts/check_data.py [data.dir=DIR].

Every stored image is read and held to its digest. Settings are run.py's (data.dir, data.cache); size=112 changes only
the size for which the need is given. The exit status is 1 where something stored differs or is damaged.
"""

import sys

from hydra.errors import HydraException
from rich.console import Console
from rich.table import Table

from moppa.data.cli import parse_args, parse_size, tasks_and_sources, vtab_tasks
from moppa.data.disk_space import SPLITS, format_bytes, task_bytes
from moppa.data.download import MANUAL_DOWNLOADS, how_to_get
from moppa.data.inventory import CachedTask, cached_tasks
from moppa.data.task import Task
from moppa.data.tfds import TfdsSource
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS

COLUMNS = ("task", "data", "lineage", "px", "train800", "val200", "test", "fingerprint", "on disk")


def main() -> int:
    """Prints the table, then what is wrong and how to get what is absent."""
    asked, overrides = parse_args(sys.argv[1:])
    try:
        size = parse_size(asked.get("size", "224"))
        made = tasks_and_sources(CONFIGS, vtab_tasks(CONFIGS), overrides)
    except (HydraException, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    made.sort(key=lambda one: one[0].column)
    found = [(task, source, cached_tasks(task, source.cache)) for task, source in made]

    table = Table(*COLUMNS, f"needs at {size} px")
    for task, source, held in found:
        needs = format_bytes(task_bytes(task, size=size))
        for row in [row_of(task, one) for one in held] or [(state_of(task, source), *[""] * (len(COLUMNS) - 2))]:
            table.add_row(task.name, *row, needs)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    total = sum(task_bytes(task, size=size) for task, _ in made)
    images = sum(1000 + task.num_test for task, _ in made)
    print(f"all {len(made)} tasks at {size} px: {images:,} images, {format_bytes(total)} in {made[0][1].cache}")

    say_how_to_get(found)
    faults = [fault for _, _, held in found for one in held for fault in one.faults]
    print("\n".join(f"wrong: {fault}" for fault in faults), end="\n" if faults else "")
    return 1 if faults else 0


def row_of(task: Task, held: CachedTask) -> tuple[str, ...]:
    """A row of the table, after the task's name."""
    state = "damaged" if held.faults else "whole" if None not in held.counts.values() else "in part"
    counts = [f"{held.counts[part] or 0:,} of {task.size_of(part):,}" for part in SPLITS]
    look = f"{held.size} {held.interpolation}"
    return (state, held.lineage, look, *counts, held.verdict or "unknown", format_bytes(held.num_bytes))


def state_of(task: Task, source: object) -> str:
    """What is known of a task that the store has nothing of."""
    if isinstance(source, TfdsSource) and source.is_prepared(task):
        return "in TFDS only"
    return "absent"


def say_how_to_get(found: list) -> None:
    """The exact way to what the store has nothing of: one command for all, then what a person has to download."""
    absent = [(task, source) for task, source, held in found if not held]
    if not absent:
        return
    dirs = sorted({source.dir for _, source in absent})
    names = ",".join(task.name for task, _ in absent)
    print(f"to get what is absent: python scripts/prepare_data.py task={names} data.dir={dirs[0]}")
    for task, source in absent:
        if isinstance(source, TfdsSource) and task.builder.partition(":")[0].partition("/")[0] in MANUAL_DOWNLOADS:
            print(f"{task.name}: {how_to_get(task, source.dir)}")


if __name__ == "__main__":
    sys.exit(main())
