"""What a sweep has, lacks and will cost: python scripts/sweep.py plan|status|retry WORDS, the words of run.py -m.

plan    cells by state, operations, and hours predicted from the rates of this device's records
status  the grid method x task, live in a terminal, with the failures; without words, of all that is in results/
retry   runs what failed, stopped or is missing (python run.py -m WORDS, which skips what is done)
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.errors import HydraException
from rich.console import Console
from rich.live import Live

from moppa.sweep.status import State
from moppa.sweep.status_table import CellFiles, cell_states, counts_line, find_cells, status_view
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS, ROOT

if TYPE_CHECKING:
    from moppa.sweep.plan import PlannedCell


SECONDS = 2.0  # between two looks of a live status


def main() -> int:
    """0, or 1 where the words mean no sweep; retry gives run.py's status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("plan", "status", "retry"))
    parser.add_argument("words", nargs="*", metavar="WORDS", help="+sweep=vtab1k, task=eurosat,dtd seed=0,1,2, ...")
    parser.add_argument("--results", type=Path, default=Path("results"), help="for a status without words")
    parser.add_argument("--once", action="store_true", help="a status that does not stay")
    asked = parser.parse_args()
    try:
        if asked.do == "plan":
            return plan(asked.words)
        if asked.do == "retry":
            return retry(asked.words)
        return status(asked.words, asked.results, once=asked.once)
    except (HydraException, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def plan(words: list[str]) -> int:
    """Prints what there is to do, and what it will cost."""
    plan_cells = planner()
    from moppa.sweep.plan import plan_summary

    Console().print(plan_summary(plan_cells(CONFIGS, words)))
    return 0


def status(words: list[str], results: Path, *, once: bool) -> int:
    """Prints the grid, and in a terminal keeps it up to date until all is done or Ctrl-C."""
    look = entries_of_words(words) if words else None

    def states() -> list[tuple[CellFiles, State]]:
        return cell_states(find_cells(results) if look is None else look, None)

    console, found = Console(), states()
    if not found:
        print(f"nothing in {results}: run a cell first (python run.py ...)")
    elif once or not console.is_terminal:
        console.print(status_view(found, num_failures=100))
    else:
        with Live(status_view(found, num_failures=10), console=console, auto_refresh=False) as live:
            while any(state.name not in ("done", "stale") for _, state in found):
                time.sleep(SECONDS)
                found = states()
                live.update(status_view(found, num_failures=10), refresh=True)
    return 0


def entries_of_words(words: list[str]) -> list[CellFiles]:
    """The cells that the words mean."""
    return [one.entry for one in planner()(CONFIGS, words)]


def planner() -> Callable[[Path, list[str]], "list[PlannedCell]"]:
    """`planned`, which downloads nothing to look at a sweep."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read where the hub's package is imported
    from moppa.sweep.plan import plan_cells  # late: torch takes seconds that a status without words does not need

    return plan_cells


def retry(words: list[str]) -> int:
    """Runs the sweep again; what is done is skipped."""
    if not words:
        raise UserError("retry needs the words of the sweep, as in: python scripts/sweep.py retry +sweep=vtab1k")
    environment = dict(os.environ)
    found = cell_states(entries_of_words(words), None)
    Console().print(counts_line(found))
    if all(state.name in ("done", "stale") for _, state in found):
        return 0
    return subprocess.run([sys.executable, str(ROOT / "run.py"), "-m", *words], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
