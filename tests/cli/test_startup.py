"""How long commands take to start, relative to `python -c "import torch"` on the same machine, in CPU time."""

import resource
import subprocess
import sys

import pytest

from tests.conftest import ROOT, TOY

CELL = ["task=mini/digits", "backbone=vit_micro", "train=mini", "method=linear"]


def cpu_seconds(*words, status=0):
    """Returns the CPU time of `python WORDS`: the shorter of two runs, because the first may read from disk."""
    seconds = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == status, done.stderr
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


@pytest.fixture(scope="module")
def import_torch():
    return cpu_seconds("-c", "import torch")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], [*CELL, "--cfg", "job"]], ids=["help", "cfg"])
def test_what_needs_no_model_starts_in_half_the_time_of_torch(words, import_torch):
    assert cpu_seconds("run.py", *words) < 0.5 * import_torch


@pytest.mark.slow
def test_a_finished_cell_is_recognized_in_half_the_time_of_torch(import_torch, tmp_path):
    words = [*CELL, "train.epochs=1", f"run.results={tmp_path}", "run.threads=1"]
    subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, check=True, capture_output=True)
    assert cpu_seconds("run.py", *words) < 0.5 * import_torch


@pytest.mark.slow
def test_a_wrong_value_is_reported_before_anything_is_fetched(import_torch):
    """The check attaches the method to the model, which takes torch, timm and the model's classes."""
    assert cpu_seconds("run.py", *TOY, "train.lr=fast", status=1) < 4 * import_torch
