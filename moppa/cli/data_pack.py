"""Writes the cached images of tasks as archives with checksums: moppa data pack task=all out=DIR.

Prepare them first with `moppa data prepare`. DIR can be copied anywhere, for example to a data set repository of the
Hugging Face hub, and used with `moppa data unpack DIR` or `data.mirror=DIR`. Further arguments are overrides of
`moppa run` (data.cache=DIR).
"""

import sys

from hydra.errors import HydraException

from moppa.cli.errors import prints_errors
from moppa.data.cli import parse_args, tasks_and_sources, vtab_tasks
from moppa.data.copies import pack, packable
from moppa.data.disk_space import format_bytes
from moppa.utils.paths import CONFIGS, user_path


@prints_errors(HydraException)
def main() -> int:
    """Prints each archive; returns 1 if a split is damaged, or if nothing is cached."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return 0
    options, rest = parse_args(sys.argv[1:])
    places = [argument.partition("=")[2] for argument in rest if argument.startswith("out=")]
    if "task" not in options or len(places) != 1 or not places[0]:
        print(f"{__doc__}\ntasks: {', '.join(vtab_tasks(CONFIGS))}", file=sys.stderr)
        return 2
    names = vtab_tasks(CONFIGS) if options["task"] == "all" else options["task"].split(",")
    num_archives = 0
    for task, source in tasks_and_sources(CONFIGS, names, [word for word in rest if not word.startswith("out=")]):
        for name, folder in packable(task, source.cache):
            num_bytes = pack(name, folder, user_path(places[0]))
            print(f"{name}: {format_bytes(num_bytes)}")
            num_archives += 1
    if not num_archives:
        print(f"nothing of {', '.join(names)} is cached; run first: moppa data prepare task=...", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
