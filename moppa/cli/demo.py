"""The pipeline on the mini suite, with no GPU and no download: python scripts/demo.py [--full] [WORD ...].

Six methods on one task; --full takes all eight. The words after it are those of run.py (train.epochs=2). What is made
lies in --results; started again, it goes on where it was.
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
from moppa.utils.paths import CONFIGS, ROOT

WORDS = ("backbone=vit_micro", "train=mini")


def main() -> int:
    """Runs what is missing, then shows the table and says where everything is."""
    asked = arguments()
    demo = Demo(
        root=ROOT,
        tasks=tuple(asked.tasks) if asked.tasks else ALL_TASKS if asked.full else TASKS,
        methods=tuple(asked.methods),
        words=(*WORDS, *asked.words),
        results=asked.results,
    )
    cells = len(demo.tasks) * len(demo.methods)
    print(f"{cells} cells: {', '.join(demo.methods)} on {', '.join(demo.tasks)}")
    try:
        status = run(demo, print)
        if status:
            print("not all cells were run; the same command goes on where it was", file=sys.stderr)
            return status
        made = write_tables(demo.results, CONFIGS)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    except (HydraException, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for table in made.tables:
        show(table, Console())
    print(list_excluded(made.left_out, demo.results), end="", file=sys.stderr)
    print("\nThis table:         " + ", ".join(str(path) for path in made.written if path.suffix in {".md", ".html"}))
    print(f"A record of a cell: {next(iter(demo.records().values()))}")
    print("One cell by itself: python run.py method=moppa task=mini/terrain backbone=vit_micro train=mini")
    print("Where to look next: README.md, docs/mini.md; `make demo FULL=1` runs all eight tasks")
    return 0


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="all eight tasks")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="these tasks instead, for example mini/terrain")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", default=METHODS)
    parser.add_argument("--results", type=Path, default=Path("results/demo"), metavar="DIR")
    parser.add_argument("words", nargs="*", metavar="WORD", help="more words for run.py")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
