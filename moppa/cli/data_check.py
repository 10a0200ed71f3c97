"""Lists the cached data of the 19 tasks and checks that it is official: moppa data check [data.dir=DIR].

Reads every cached image and compares it with its digest. Takes overrides of `moppa run` (data.dir, data.cache);
size=112 sets the size for which the needed disk space is computed. Exits with 1 if cached data is wrong or damaged.
"""

import sys
from typing import NamedTuple

from hydra.errors import HydraException
from rich.console import Console
from rich.table import Table

from moppa.data.cli import parse_args, parse_size, tasks_and_sources, vtab_tasks
from moppa.data.disk_space import format_bytes, task_bytes
from moppa.data.download import MANUAL_DOWNLOADS, builder_name, how_to_get
from moppa.data.inventory import CachedTask, cached_tasks
from moppa.data.source import Source
from moppa.data.task import SPLITS, Task
from moppa.data.tfds import TfdsSource
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS

COLUMNS = ("task", "data", "lineage", "px", *SPLITS, "split check", "on disk")


class Row(NamedTuple):
    """A task, its source, and what the cache holds of it, one entry per lineage and image format."""

    task: Task
    source: Source
    cached: list[CachedTask]


def main() -> int:
    """Prints the table, the faults, and how to get the data sets that are absent."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return 0
    options, overrides = parse_args(sys.argv[1:])
    try:
        size = parse_size(options.get("size", "224"))
        pairs = tasks_and_sources(CONFIGS, vtab_tasks(CONFIGS), overrides)
    except (HydraException, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    pairs.sort(key=lambda pair: pair[0].column)
    rows = [Row(task, source, cached_tasks(task, source.cache)) for task, source in pairs]

    Console(width=None if sys.stdout.isatty() else 140).print(table_of(rows, size=size))
    num_bytes = sum(task_bytes(row.task, size=size) for row in rows)
    num_images = sum(task_images(row.task) for row in rows)
    cache = rows[0].source.cache
    print(f"all {len(rows)} tasks at {size} px: {num_images:,} images, {format_bytes(num_bytes)} in {cache}")

    print_how_to_get([row for row in rows if not row.cached])
    faults = [fault for row in rows for cached in row.cached for fault in cached.faults]
    for fault in faults:
        print(f"wrong: {fault}")
    return 1 if faults else 0


def task_images(task: Task) -> int:
    """Returns the number of images of a task."""
    return sum(task.num_images(split) for split in SPLITS)


def table_of(rows: list[Row], *, size: int) -> Table:
    """Returns the table with one line per task, lineage and image format."""
    table = Table(*COLUMNS, f"needs at {size} px")
    for task, source, cached in rows:
        needs = format_bytes(task_bytes(task, size=size))
        if not cached:
            table.add_row(task.name, state_without_cache(task, source), *[""] * (len(COLUMNS) - 2), needs)
        for entry in cached:
            table.add_row(task.name, *cells_of(task, entry), needs)
    return table


def cells_of(task: Task, cached: CachedTask) -> tuple[str, ...]:
    """Returns the cells of a line from `data` to `on disk`."""
    state = "damaged" if cached.faults else "incomplete" if None in cached.num_images.values() else "complete"
    counts = [f"{cached.num_images[split] or 0:,} of {task.num_images(split):,}" for split in SPLITS]
    image_format = f"{cached.size} {cached.interpolation}"
    split_check = cached.split_check or "unknown"
    return (state, cached.lineage, image_format, *counts, split_check, format_bytes(cached.num_bytes))


def state_without_cache(task: Task, source: Source) -> str:
    """Returns the state of a task of which nothing is cached."""
    return "in TFDS only" if isinstance(source, TfdsSource) and source.is_prepared(task) else "absent"


def print_how_to_get(rows: list[Row]) -> None:
    """Prints one command for all absent tasks, then the manual steps of those that need any."""
    if not rows:
        return
    names = ",".join(row.task.name for row in rows)
    data_dir = min(getattr(row.source, "dir", "") for row in rows)
    print(f"to get the absent tasks: moppa data prepare task={names} data.dir={data_dir}")
    for task, source, _ in rows:
        if isinstance(source, TfdsSource) and builder_name(task) in MANUAL_DOWNLOADS:
            print(f"{task.name}: {how_to_get(task, source.dir)}")


if __name__ == "__main__":
    sys.exit(main())
