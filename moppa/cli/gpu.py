"""Checks and measures everything that needs a GPU, in at most six minutes: moppa gpu, or make gpu.

Runs the tests marked `gpu`; then measures the machine, steps in every run.step and run.precision, an evaluation,
whole cells, and HF peft. Each part runs in a process of its own, and one that fails or takes too long does not stop the
others. Writes one JSON file and prints a short table last. Without a GPU every part runs at a small size.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from moppa.bench.gpu import PARTS, as_json, run_part, size_for, table
from moppa.bench.output import output_path, save_json
from moppa.utils.device import configure_process, get_device
from moppa.utils.paths import MOPPA_COMMAND, ROOT, user_path

SECONDS = 350  # for everything
# the most seconds of each part; the last gets what is left
LIMITS = {"tests": 130, "machine": 25, "steps": 80, "evaluation": 30, "cells": 70, "peft": 60, "compiled": 120}
TEST_PROCESSES = 8
TEST_FILES = ("test_gpu.py", "mixture/test_kernel.py")
PYTEST = [
    sys.executable,
    "-m",
    "pytest",
    "-m",
    "gpu and not slow",
    "-o",
    "addopts=",
    "-o",
    "filterwarnings=default",
    "-p",
    "no:cacheprovider",
    "-q",
    "-rf",
]


def main() -> int:
    """Runs all parts and prints the table."""
    arguments = parse_arguments()
    device = get_device("auto")
    if arguments.part:
        threads = None if device.type == "cuda" else 1  # the small size is too small for several
        configure_process(threads=threads, backend="auto", keep_memory=True)
        run_part(arguments.part, device, arguments.out)
        return 0
    deadline = time.monotonic() + arguments.seconds
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in ("tests", *PARTS):
            if part in arguments.parts:
                seconds = min(LIMITS[part], deadline - time.monotonic())
                print(f"--- {part}", file=sys.stderr, flush=True)
                began = time.monotonic()
                out = Path(folder) / f"{part}.json"
                ended = run_in_process(part, out, seconds)
                results[part] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else None
                results[f"{part}_ended"] = f"{ended} after {time.monotonic() - began:.0f} s"
    size = size_for(device)
    path = output_path(arguments.out, "gpu", device)
    save_json(path, as_json(results, size))
    lines = [*table(results, size), *[f"{part:<12}{results[f'{part}_ended']}" for part in arguments.parts], str(path)]
    if device.type != "cuda":
        lines.append("no GPU: torch sees none here, so every part ran at a small size and no number above is a GPU's")
    print("\n".join(lines))
    return 0


def parse_arguments() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(LIMITS), metavar="PART", help=f"of {', '.join(LIMITS)}")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for everything: %(default)s")
    parser.add_argument("--out", type=user_path, default=ROOT / "outputs" / "benchmarks", help="folder for the JSON")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # in a child process: writes to --out
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(LIMITS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from {', '.join(LIMITS)}")
    return arguments


def run_in_process(part: str, out: Path, seconds: float) -> str:
    """Runs a part in a process and returns how it ended."""
    if seconds < 1:
        return "not run: no time was left"
    command = [*MOPPA_COMMAND, "gpu", "--part", part, "--out", str(out)]
    if part == "tests":
        command = [*PYTEST, *in_parallel(), *(str(ROOT / "tests" / name) for name in TEST_FILES)]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=seconds, text=True)
    except subprocess.TimeoutExpired as stopped:
        print((stopped.stdout or b"").decode(errors="replace"), file=sys.stderr)
        return f"stopped at its limit of {seconds:.0f} s"
    print(done.stdout, file=sys.stderr)
    if part == "tests":
        return f"{last_line(done.stdout)}"
    return "done" if done.returncode == 0 else f"failed with status {done.returncode}"


def in_parallel() -> list[str]:
    """Returns the arguments that let pytest-xdist, if it is installed, run the tests in several processes."""
    return ["-n", str(min(TEST_PROCESSES, os.cpu_count() or 1))] if find_spec("xdist") else []


def last_line(text: str) -> str:
    """Returns the last line of an output, which for pytest counts the tests."""
    return (text.strip().splitlines() or ["no output"])[-1]


if __name__ == "__main__":
    sys.exit(main())
