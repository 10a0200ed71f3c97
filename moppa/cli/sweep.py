"""Plans a sweep, shows its status, or retries it: moppa sweep plan|status|retry OVERRIDES.

OVERRIDES are those of `python run.py -m`.

plan    the cells by state, their operations, and the hours predicted from this device's records
status  a table of methods and tasks, live in a terminal, with the failures; without OVERRIDES, of all cells in results/
retry   runs what failed, was interrupted or is missing (python run.py -m OVERRIDES, which skips finished cells)
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
from moppa.utils.paths import CONFIGS, RUN_COMMAND, user_path

if TYPE_CHECKING:
    from moppa.sweep.plan import PlannedCell


REFRESH_SECONDS = 2.0


def main() -> int:
    """Returns 0, or 1 if the overrides describe no sweep; `retry` returns the exit status of run.py."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("plan", "status", "retry"))
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDES", help="+sweep=vtab1k, task=eurosat,dtd seed=0,1,2, ..."
    )
    parser.add_argument("--results", type=user_path, default=Path("results"), help="for status without OVERRIDES")
    parser.add_argument("--once", action="store_true", help="print the status once and exit")
    arguments = parser.parse_args()
    try:
        if arguments.action == "plan":
            return plan(arguments.overrides)
        if arguments.action == "retry":
            return retry(arguments.overrides)
        return status(arguments.overrides, arguments.results, once=arguments.once)
    except (HydraException, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def plan(overrides: list[str]) -> int:
    """Prints the states of the cells and what they will cost."""
    plan_cells = import_plan_cells()
    from moppa.sweep.plan import plan_summary

    Console().print(plan_summary(plan_cells(CONFIGS, overrides)))
    return 0


def status(overrides: list[str], results: Path, *, once: bool) -> int:
    """Prints the status table; in a terminal, refreshes it until all cells are done or Ctrl-C is pressed."""
    planned = planned_files(overrides) if overrides else None

    def read_states() -> list[tuple[CellFiles, State]]:
        return cell_states(find_cells(results) if planned is None else planned, None)

    console, states = Console(), read_states()
    if not states:
        raise UserError(f"there are no cells in {results}: run one first (moppa run ...), or give --results FOLDER")
    if once or not console.is_terminal:
        console.print(status_view(states, num_failures=100, width=console.width))
    else:
        with Live(
            status_view(states, num_failures=10, width=console.width), console=console, auto_refresh=False
        ) as live:
            while not all(state.is_finished for _, state in states):
                time.sleep(REFRESH_SECONDS)
                states = read_states()
                live.update(status_view(states, num_failures=10, width=console.width), refresh=True)
    return 0


def retry(overrides: list[str]) -> int:
    """Runs the sweep again unless all of its cells are finished."""
    if not overrides:
        raise UserError("retry needs the overrides of the sweep, as in: moppa sweep retry +sweep=vtab1k")
    environment = dict(os.environ)  # before planning changes it
    states = [state for _, state in cell_states(planned_files(overrides), None)]
    Console().print(counts_line(states))
    if all(state.is_finished for state in states):
        return 0
    return subprocess.run([*RUN_COMMAND, "-m", *overrides], env=environment, check=False).returncode


def planned_files(overrides: list[str]) -> list[CellFiles]:
    """Returns the files of the cells that the overrides describe."""
    return [cell.files for cell in import_plan_cells()(CONFIGS, overrides)]


def import_plan_cells() -> Callable[[Path, list[str]], "list[PlannedCell]"]:
    """Returns `plan_cells`, set up so that it downloads nothing.

    It is imported late because it needs torch, which a status without overrides does not.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is imported
    from moppa.sweep.plan import plan_cells

    return plan_cells


if __name__ == "__main__":
    sys.exit(main())
