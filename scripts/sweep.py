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

from moppa.errors import UserError
from moppa.sweep.grid import Entry, counts_line, entries_of, states_of, view
from moppa.sweep.state import State

if TYPE_CHECKING:
    from moppa.sweep.plan import Planned

ROOT = Path(__file__).parent.parent.resolve()
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
    planned = planner()
    from moppa.sweep.plan import summary

    Console().print(summary(planned(ROOT / "configs", words)))
    return 0


def status(words: list[str], results: Path, *, once: bool) -> int:
    """Prints the grid, and in a terminal keeps it up to date until all is done or Ctrl-C."""
    look = entries_of_words(words) if words else None

    def states() -> list[tuple[Entry, State]]:
        return states_of(entries_of(results) if look is None else look, None)

    console, found = Console(), states()
    if not found:
        print(f"nothing in {results}: run a cell first (python run.py ...)")
    elif once or not console.is_terminal:
        console.print(view(found, num_failures=100))
    else:
        with Live(view(found, num_failures=10), console=console, auto_refresh=False) as live:
            while any(state.name not in ("done", "stale") for _, state in found):
                time.sleep(SECONDS)
                found = states()
                live.update(view(found, num_failures=10), refresh=True)
    return 0


def entries_of_words(words: list[str]) -> list[Entry]:
    """The cells that the words mean."""
    return [one.entry for one in planner()(ROOT / "configs", words)]


def planner() -> Callable[[Path, list[str]], "list[Planned]"]:
    """`planned`, which downloads nothing to look at a sweep."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read where the hub's package is imported
    from moppa.sweep.plan import planned  # late: torch takes seconds that a status without words does not need

    return planned


def retry(words: list[str]) -> int:
    """Runs the sweep again; what is done is skipped."""
    if not words:
        raise UserError("retry needs the words of the sweep, as in: python scripts/sweep.py retry +sweep=vtab1k")
    environment = dict(os.environ)
    found = states_of(entries_of_words(words), None)
    Console().print(counts_line(found))
    if all(state.name in ("done", "stale") for _, state in found):
        return 0
    return subprocess.run([sys.executable, str(ROOT / "run.py"), "-m", *words], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
