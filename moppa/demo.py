"""The demo: two worker processes run a few methods on the mini suite behind one progress bar."""

import os
import queue
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moppa.backbone.model import compute_weights_sha256
from moppa.record.cell import Cell, cell_from_config
from moppa.utils.config import compose_config, instantiate
from moppa.utils.paths import RUN_COMMAND
from moppa.utils.progress import progress_bar

METHODS = ("linear", "lora", "adapter", "vpt_deep", "nola", "moppa")
TASKS = ("mini/sprites_location",)  # takes under five minutes on two cores
ALL_TASKS = (
    *TASKS,
    "mini/digits",
    "mini/textures",
    "mini/sprites_orientation",
    "mini/spots",
    "mini/shapes_count",
    "mini/terrain",
    "mini/shapes_distance",
    "mini/ripples_location",
    "mini/pairs_direction",
)
NUM_WORKERS = 2
NUM_ERROR_LINES = 20

Lines = queue.Queue[str | None]  # what the workers print; None when one of them ends


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The cells of a demo, further overrides for all of them, and the results folder."""

    tasks: Sequence[str]
    methods: Sequence[str]
    overrides: Sequence[str]
    results: Path

    def cell_overrides(self, task: str, method: str) -> list[str]:
        """Returns the overrides of one cell, or of several if task and method are comma-separated."""
        return [f"task={task}", f"method={method}", *self.overrides, f"run.results={self.results}"]

    def records(self) -> dict[tuple[str, str], Path]:
        """Returns the path of each cell's record by task and method. The record need not exist yet."""
        return {names: cell.record for names, cell in self.cells().items()}

    def cells(self) -> dict[tuple[str, str], Cell]:
        """Returns the cells by task and method."""
        cells, weights_sha256 = {}, ""
        for task in self.tasks:
            for method in self.methods:
                config = compose_config(self.cell_overrides(task, method))
                weights_sha256 = weights_sha256 or compute_weights_sha256(instantiate(config, "backbone"))
                cells[task, method] = cell_from_config(config, weights_sha256=weights_sha256)
        return cells

    def command(self) -> list[str]:
        """Returns the command of a worker. It runs all cells, except those that another worker leases."""
        return [*RUN_COMMAND, "-m", *self.cell_overrides(",".join(self.tasks), ",".join(self.methods))]


def run(demo: Demo, show_line: Callable[[str], None]) -> int:
    """Runs every cell without a record and shows each result. Returns the first non-zero exit status, or 0.

    Ctrl-C reaches the workers too. They save a checkpoint, from which the next run resumes.
    """
    cells = demo.cells()
    next(iter(cells.values())).check_writable()
    records = [cell.record for cell in cells.values()]
    lines: Lines = queue.Queue()
    workers = [start_worker(demo.command()) for _ in range(NUM_WORKERS)]
    for worker in workers:
        threading.Thread(target=forward_lines, args=(worker, lines), daemon=True).start()
    try:
        with progress_bar() as bar:
            progress = bar.add_task("cells", total=len(records), completed=0, note=f"{NUM_WORKERS} at a time")
            num_running = NUM_WORKERS
            while num_running:
                bar.update(progress, completed=sum(path.exists() for path in records))
                line = next_line(lines)
                if line is None:
                    num_running -= 1
                elif line:
                    show_line(line)
            bar.update(progress, completed=sum(path.exists() for path in records))
    finally:
        for worker in workers:
            worker.wait()
    return next((worker.returncode for worker in workers if worker.returncode), 0)


def start_worker(command: Sequence[str]) -> subprocess.Popen[str]:
    """Starts a worker with one compute thread, so that two workers do not compete for a core. Its output is piped."""
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    )


def forward_lines(worker: subprocess.Popen[str], lines: Lines) -> None:
    """Puts a worker's results into the queue, then None. If the worker fails, puts its last lines first."""
    output = []
    for text in worker.stdout or ():
        output.append(text.rstrip())
        if " correct, " in text or text.startswith("resuming"):
            lines.put(text.partition(", ")[0].rstrip())
    if worker.wait():
        lines.put("\n".join(output[-NUM_ERROR_LINES:]))
    lines.put(None)


def next_line(lines: Lines) -> str | None:
    """Returns the next line of the queue, or "" after half a second without one."""
    try:
        return lines.get(timeout=0.5)
    except queue.Empty:
        return ""
