"""Lists the cached data of the 19 tasks and checks that it is official: moppa data check [data.dir=DIR].

Reads every cached image, compares it with its digest, and counts images that are in two splits. Takes overrides of
`moppa run` (data.dir, data.cache); task=mini/digits,own/shapes checks other tasks than the 19; size=112 sets the size
for which the needed disk space is computed. Exits with 1 if cached data is wrong or damaged.
"""

import sys
from typing import NamedTuple

from hydra.errors import HydraException
from rich.console import Console
from rich.table import Table

from moppa.cli.errors import prints_errors
from moppa.data.cli import parse_args, parse_size, tasks_and_sources, vtab_tasks
from moppa.data.disk_space import format_bytes, task_bytes
from moppa.data.download import MANUAL_DOWNLOADS, builder_name, how_to_get
from moppa.data.inventory import CachedTask, cached_tasks, is_current, split_folders
from moppa.data.source import Source
from moppa.data.task import SPLITS, Task
from moppa.data.tfds import TfdsSource
from moppa.utils.paths import CONFIGS

COLUMNS = ("task", "data", "lineage", "px", *SPLITS, "split check", "on disk")


class Row(NamedTuple):
    """A task, its source, and what the cache holds of it, one entry per lineage and image format.

    `option` is the task as `task=` names it.
    """

    option: str
    task: Task
    source: Source
    cached: list[CachedTask]


@prints_errors(HydraException)
def main() -> int:
    """Prints the table, the faults, and how to get the data sets that are absent."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return 0
    options, overrides = parse_args(sys.argv[1:])
    size = parse_size(options.get("size", "224"))
    names = options["task"].split(",") if "task" in options else vtab_tasks(CONFIGS)
    pairs = tasks_and_sources(CONFIGS, names, overrides)
    rows = [
        Row(name, task, source, cached_tasks(task, source.cache))
        for name, (task, source) in zip(names, pairs, strict=True)
    ]
    rows.sort(key=lambda row: row.task.column)

    Console(width=None if sys.stdout.isatty() else 140).print(table_of(rows, size=size))
    num_bytes = sum(task_bytes(row.task, size=size) for row in rows)
    num_images = sum(task_images(row.task) for row in rows)
    cache = rows[0].source.cache
    tasks = "1 task" if len(rows) == 1 else f"{len(rows)} tasks"
    print(f"{tasks} at {size} px: {num_images:,} images, {format_bytes(num_bytes)} in {cache}")
    if old := [folder for row in rows for folder in split_folders(row.task, cache) if not is_current(folder)]:
        print(f"not read any more, because of their older format: {len(old)} folders like {old[0]}; delete them")

    print_how_to_get([row for row in rows if not row.cached])
    for _, task, _, cached in rows:
        for entry in cached:
            for pair, count in entry.shared_images.items():
                print(f"{task.name} ({entry.lineage}, {entry.size} px): {count:,} images have equal pixels, {pair}")
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
    for _, task, source, cached in rows:
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
    split_check, test_check = cached.split_check or "unknown", cached.test_check or "unknown"
    split_check = split_check if split_check == test_check else f"{split_check}, test {test_check}"
    return (state, cached.lineage, image_format, *counts, split_check, format_bytes(cached.num_bytes))


def state_without_cache(task: Task, source: Source) -> str:
    """Returns the state of a task of which nothing is cached."""
    return "in TFDS only" if isinstance(source, TfdsSource) and source.is_prepared(task) else "absent"


def print_how_to_get(rows: list[Row]) -> None:
    """Prints one command for all absent tasks, then the manual steps of those that need any."""
    if not rows:
        return
    names = ",".join(row.option for row in rows)
    data_dir = max(getattr(row.source, "dir", "") for row in rows)
    print(f"to get the absent tasks: moppa data prepare task={names}" + (f" data.dir={data_dir}" if data_dir else ""))
    for _, task, source, _ in rows:
        if isinstance(source, TfdsSource) and builder_name(task) in MANUAL_DOWNLOADS:
            print(f"{task.name}: {how_to_get(task, source.dir)}")


if __name__ == "__main__":
    sys.exit(main())
