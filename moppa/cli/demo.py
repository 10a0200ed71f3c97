"""Runs the whole pipeline on the mini suite, without a GPU or downloads: moppa demo [--full] [OVERRIDES].

Six methods on one task, or on all ten with --full. OVERRIDES are passed to run.py (train.epochs=2). Run the same
command again to resume an interrupted demo.
"""

import argparse
import sys
from pathlib import Path

from hydra.errors import HydraException
from rich.console import Console

from moppa.demo import ALL_TASKS, METHODS, TASKS, Demo, run
from moppa.report.build import list_excluded, write_tables
from moppa.report.render.terminal import show
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS, user_path

OVERRIDES = ("backbone=vit_micro", "train=mini")


def main() -> int:
    """Runs the cells that have no record yet, prints the table and the paths of the results."""
    arguments = parse_arguments()
    demo = Demo(
        tasks=tuple(arguments.tasks) if arguments.tasks else ALL_TASKS if arguments.full else TASKS,
        methods=tuple(arguments.methods),
        overrides=(*OVERRIDES, *arguments.overrides),
        results=arguments.results,
    )
    num_cells = len(demo.tasks) * len(demo.methods)
    print(f"{num_cells} cells: {', '.join(demo.methods)} on {', '.join(demo.tasks)}")
    try:
        status = run(demo, print)
        if status:
            print("not all cells have finished; run the same command again to resume", file=sys.stderr)
            return status
        built = write_tables(demo.results, CONFIGS)
    except KeyboardInterrupt:
        print("stopped; run the same command again to resume", file=sys.stderr)
        return 130
    except (HydraException, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for table in built.tables:
        show(table, Console())
    print(list_excluded(built.excluded, demo.results), end="", file=sys.stderr)
    print("\nThis table:         " + ", ".join(str(path) for path in built.written if path.suffix in {".md", ".html"}))
    print(f"A cell's record:    {next(iter(demo.records().values()))}")
    print("Run a single cell:  python run.py method=moppa task=mini/terrain backbone=vit_micro train=mini")
    print("Read next:          README.md, docs/mini.md; `make demo FULL=1` runs all ten tasks")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="run all ten tasks")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="run these tasks, for example mini/terrain")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", default=METHODS, help=f"default: {' '.join(METHODS)}")
    parser.add_argument("--results", type=user_path, default=Path("results/demo"), metavar="DIR", help="(%(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDES", help="more overrides for run.py")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
