"""The whole pipeline on the mini suite: two processes run the cells, one bar counts them, and the table is shown."""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moppa.backbone.model import compute_weights_sha256
from moppa.record.cell import cell_from_config
from moppa.utils.config import compose_config, instantiate
from moppa.utils.progress import progress_bar

METHODS = ("linear", "lora", "adapter", "vpt_deep", "nola", "moppa")
TASKS = ("mini/sprites_location",)  # what ends within five minutes on two cores
ALL_TASKS = (
    *TASKS,
    "mini/digits",
    "mini/textures",
    "mini/sprites_orientation",
    "mini/spots",
    "mini/shapes_count",
    "mini/terrain",
    "mini/shapes_distance",
)
NUM_WORKERS = 2


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Which cells are run, with which words for run.py, and where everything that is made goes."""

    root: Path
    tasks: Sequence[str]
    methods: Sequence[str]
    words: Sequence[str]
    results: Path

    def overrides(self, task: str, method: str) -> list[str]:
        """The words of run.py for one cell."""
        return [f"task={task}", f"method={method}", *self.words, f"run.results={self.results}"]

    def records(self) -> dict[tuple[str, str], Path]:
        """Where the record of every cell is, or will be."""
        found, digest = {}, ""
        for task in self.tasks:
            for method in self.methods:
                config = compose_config(self.overrides(task, method))
                digest = digest or compute_weights_sha256(instantiate(config, "backbone"))  # the same for all cells
                found[task, method] = cell_from_config(config, weights_sha256=digest).record
        return found

    def command(self) -> list[str]:
        """One process that runs every cell which no other has claimed."""
        words = self.overrides(",".join(self.tasks), ",".join(self.methods))
        return [sys.executable, str(self.root / "run.py"), "-m", *words]


def run(demo: Demo, say: Callable[[str], None]) -> int:
    """Runs every cell that has no record yet, and says each result as it comes; the first failing exit status, or 0.

    Ctrl-C reaches both processes, which save where they are; the next run goes on from there.
    """
    records = demo.records()
    num_done = sum(path.exists() for path in records.values())
    lines: queue.Queue[str | None] = queue.Queue()
    workers = [start(demo.command(), demo.root) for _ in range(NUM_WORKERS)]
    readers = [threading.Thread(target=pass_on, args=(worker, lines), daemon=True) for worker in workers]
    for reader in readers:
        reader.start()
    try:
        with progress_bar() as bar:
            line = bar.add_task("cells", total=len(records), completed=num_done, note=f"{len(workers)} at a time")
            num_running = len(workers)
            while num_running:
                text = take(lines)
                if text is None:
                    num_running -= 1
                elif text:
                    say(text)
                bar.update(line, completed=sum(path.exists() for path in records.values()))
    finally:
        for worker in workers:
            worker.wait()
    return next((worker.returncode for worker in workers if worker.returncode), 0)


def start(command: Sequence[str], root: Path) -> subprocess.Popen[str]:
    """A worker with one thread of arithmetic, so that two of them do not share a core; its bars are not shown."""
    return subprocess.Popen(
        command,
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    )


def pass_on(worker: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
    """Puts what a worker says into the queue, then None; a worker that fails is quoted in full."""
    told = []
    for text in worker.stdout or ():
        told.append(text.rstrip())
        if " right, " in text or text.startswith("resuming"):
            lines.put(text.partition(", ")[0].rstrip())
    if worker.wait():
        lines.put("\n".join(told[-20:]))
    lines.put(None)


def take(lines: "queue.Queue[str | None]") -> str | None:
    """The next line, "" where none comes within half a second."""
    try:
        return lines.get(timeout=0.5)
    except queue.Empty:
        return ""
