"""Trains and evaluates a method on a task, or many cells with -m: moppa run task=NAME OVERRIDES.

In a checkout `python run.py` is the same. torch is imported for a cell that has to be trained, and not before.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from moppa.cli.composition_errors import explain
from moppa.cli.errors import ends_with_its_pipe
from moppa.cli.run_usage import task_lines, usage
from moppa.sweep.expand import count_cells
from moppa.sweep.resolve import finished_cell
from moppa.sweep.select_hparams import objectives
from moppa.utils.config import one_line_errors
from moppa.utils.errors import UserError
from moppa.utils.output import allow_any_text
from moppa.utils.overrides import quoted
from moppa.utils.paths import CONFIGS, IS_CHECKOUT, ROOT
from moppa.utils.renamed import check_overrides

FULL_ERROR = "HYDRA_FULL_ERROR"
NUM_CELLS = "MOPPA_NUM_CELLS"  # in the environment, for the workers of a launcher
PROGRAM = "python run.py" if IS_CHECKOUT else "moppa run"
cell_seconds: list[float] = []  # of the cells that this process has trained


@ends_with_its_pipe
def main() -> int:
    """Runs the cells that `sys.argv` describes, or prints what it asks for; returns 1 after an error."""
    allow_any_text()
    arguments = get_args_parser().parse_args()
    folders = [CONFIGS, *([Path(arguments.config_dir)] if arguments.config_dir else [])]
    if arguments.help or len(sys.argv) == 1:
        print(usage(PROGRAM, folders))
        return 0
    try:
        check_overrides(arguments.overrides)
        if not (arguments.shell_completion or arguments.hydra_help or arguments.experimental_rerun):
            check_task(arguments, folders)
            is_multirun = arguments.multirun or is_sweep(arguments.overrides)
            overrides = quoted(arguments.overrides, CONFIGS, is_multirun=is_multirun)
            changed = dict(zip(arguments.overrides, overrides, strict=True))
            sys.argv[1:] = [changed.get(word, word) for word in sys.argv[1:]]
            if is_multirun:
                os.environ[NUM_CELLS] = str(count_cells(folders, overrides) or "")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return start_hydra(folders)


def is_sweep(overrides: Sequence[str]) -> bool:
    """Returns whether the overrides choose a config of `configs/sweep`, which makes the run a multirun without -m."""
    return any(word.startswith("+sweep=") for word in overrides)


def check_task(arguments: argparse.Namespace, folders: Sequence[Path]) -> None:
    """Raises `UserError`, with all tasks, if the overrides name no task."""
    names = {word.partition("=")[0].lstrip("+") for word in arguments.overrides}
    if not names & {"task", "sweep"} and arguments.config_name is None:
        lines = "\n".join(task_lines(folders))
        raise UserError(f"no task is chosen: add task=NAME\n\n{lines}\n\n`{PROGRAM} --help` shows the other groups")


def start_hydra(folders: Sequence[Path]) -> int:
    """Lets Hydra compose the configs and run the cells. Errors are printed as one line.

    With HYDRA_FULL_ERROR=1 they keep their traceback.
    """
    command = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="cell")(run_task)
    if FULL_ERROR in os.environ:
        command()
        return 0
    os.environ[FULL_ERROR] = "1"  # Hydra then raises an error instead of printing it with a hint at this variable
    try:
        command()
    except BrokenPipeError:
        raise
    except Exception as error:
        print(explain(error, folders, sys.argv[1:]), file=sys.stderr)
        return 1
    finally:
        del os.environ[FULL_ERROR]
    return 0


def run_task(config: DictConfig) -> float | tuple[float, int] | None:
    """Runs the cell of a composed config and returns what a search over settings optimizes."""
    with one_line_errors():
        announce(config)
        cell = finished_cell(config)
        if cell is None:
            started = time.perf_counter()
            cell = import_run().run_cell(config)
            cell_seconds.append(time.perf_counter() - started)
        return objectives(cell)


def import_run() -> Any:
    """Returns the module that trains a cell: run.py of the checkout, or its copy in an installed package."""
    if IS_CHECKOUT and str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return import_module("run" if IS_CHECKOUT else "moppa.run")


def announce(config: DictConfig) -> None:
    """In a multirun, prints which cell comes and, if this process runs all of them, how long they will take."""
    job = HydraConfig.get()
    if job.mode != RunMode.MULTIRUN:
        return
    number, total = job.job.num + 1, int(os.environ.get(NUM_CELLS) or 0)
    names = [config[group].get("name") for group in ("backbone", "method", "task")]
    line = f"cell {number}{f' of {total}' if total else ''}: {' '.join(map(str, names))} seed {config.seed}"
    if cell_seconds and total and job.launcher._target_.endswith("BasicLauncher"):
        left = sum(cell_seconds) / len(cell_seconds) * (total - number + 1)
        line += f", about {duration(left)} left"
    print(line, file=sys.stderr)


def duration(seconds: float) -> str:
    """Returns a duration in the unit that suits it, as in "40 s" or "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    sys.exit(main())
