"""Downloads, resizes and caches the images of tasks: moppa data prepare task=all.

task=eurosat,cifar100 prepares some tasks. Further arguments are overrides of `moppa run` (data.dir=DIR, data.cache=DIR,
backbone=NAME, backbone.image_size=112), so that it finds the result; or give size=224 interpolation=bicubic.
"""

import sys
from pathlib import Path

from hydra.errors import HydraException

from moppa.cli.errors import prints_errors
from moppa.data.cache import prepare_splits
from moppa.data.check import split_check
from moppa.data.cli import image_format, parse_args, tasks_and_sources, vtab_tasks
from moppa.data.disk_space import check_free_space, split_bytes
from moppa.data.images import ImageFormat
from moppa.data.source import Source
from moppa.data.split import split_folder
from moppa.data.task import SPLITS, Task
from moppa.utils.config import compose_config
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS


@prints_errors(HydraException)
def main() -> int:
    """Prints the outcome of each task; returns 1 if one of them could not be prepared."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return 0
    options, overrides = parse_args(sys.argv[1:])
    if "task" not in options:
        print(f"{__doc__}\ntasks: {', '.join(vtab_tasks(CONFIGS))}", file=sys.stderr)
        return 2
    names = vtab_tasks(CONFIGS) if options["task"] == "all" else options["task"].split(",")
    pairs = tasks_and_sources(CONFIGS, names, overrides)
    target = image_format(compose_config([f"task={names[0]}", *overrides]), options)
    num_bytes = sum(missing_bytes(task, source, target) for task, source in pairs)
    purpose = f"preparing {len(pairs)} task(s) at {target.size} px"
    check_free_space(purpose, num_bytes, Path(pairs[0][1].cache))
    failed = [task.name for task, source in pairs if not prepare_task(task, source, target)]
    if failed:
        print(f"not prepared: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def missing_bytes(task: Task, source: Source, target: ImageFormat) -> int:
    """Returns the bytes that the splits of a task will take that are not in the cache yet."""
    absent = [split for split in SPLITS if not split_folder(task, split, source, target).exists()]
    return sum(split_bytes(task, split, size=target.size) for split in absent)


def prepare_task(task: Task, source: Source, target: ImageFormat) -> bool:
    """Prepares all splits of a task and prints the outcome; returns whether it succeeded."""
    try:
        folders = prepare_splits(task, SPLITS, source, target)
        check = split_check(task, source, folders)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    num_images = sum(task.num_images(split) for split in SPLITS)
    place = folders["train800"].parent
    print(
        f"{task.name}: {num_images:,} images at {target.size} px, {check['verdict']}, test {check['test']}, in {place}"
    )
    for pair, count in check["shared_images"].items():
        if count:
            print(f"{task.name}: images with the same pixels, {pair}: {count:,}")
    return True


if __name__ == "__main__":
    sys.exit(main())
