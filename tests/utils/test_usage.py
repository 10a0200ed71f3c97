"""Peak memory is a cell's own, and other work beside a training is noticed."""

import time

import numpy as np
import pytest
import torch

from moppa.utils import usage
from moppa.utils.usage import PeakMemory, Usage, other_cpu_seconds, ran_alone, status_bytes

CPU = torch.device("cpu")
MIB = 1 << 20
needs_linux = pytest.mark.skipif(status_bytes("VmHWM") is None, reason="reads /proc")


def touch(num_bytes):
    """Allocates memory, writes to it and frees it."""
    np.ones(num_bytes, dtype=np.uint8)


@needs_linux
@pytest.mark.parametrize("is_reset", [True, False])
def test_the_peak_is_the_cells_own(monkeypatch, is_reset):
    if not is_reset:
        monkeypatch.setattr(usage, "reset_peak", lambda: False)
    touch(300 * MIB)
    memory = PeakMemory(CPU)
    before, scope = status_bytes("VmRSS"), memory.peak()[1]
    assert scope == "cell"
    memory = PeakMemory(CPU)
    touched = np.ones(64 * MIB, dtype=np.uint8)
    time.sleep(0.1)
    del touched
    peak, _ = memory.peak()
    assert before + 50 * MIB < peak < before + 200 * MIB


def test_another_system_reports_the_peak_of_the_process(monkeypatch, tmp_path):
    monkeypatch.setattr(usage, "PROC", tmp_path)
    peak, scope = PeakMemory(CPU).peak()
    assert scope == "process"
    assert peak > 50 * MIB
    assert other_cpu_seconds() is None


@pytest.mark.parametrize(
    ("before", "after", "seconds", "expected"),
    [(5.0, 5.2, 1.0, True), (5.0, 5.3, 1.0, False), (5.0, 5.0, 0.1, None), (None, None, 1.0, None)],
)
def test_a_quarter_of_a_core_of_other_work_counts(before, after, seconds, expected):
    assert ran_alone(before, after, seconds) is expected


@needs_linux
def test_the_processes_own_work_is_not_other_work(monkeypatch):
    own = time.process_time()
    before = other_cpu_seconds()
    monkeypatch.setattr(time, "process_time", lambda: own + 1000)
    assert other_cpu_seconds() < before - 900


def test_phases_add_up_and_a_record_gets_the_rest():
    measured = Usage(CPU)
    for _ in range(2):
        with measured("data"):
            time.sleep(0.01)
    with measured.training():
        pass
    assert measured.seconds["data"] >= 0.02
    assert measured.for_record().keys() == {"peak_memory_bytes", "peak_memory_scope", "alone"}
    assert measured.alone is None


@needs_linux
def test_the_memory_that_is_added_leaves_out_what_was_held_before():
    held = torch.ones(30_000_000)
    memory = PeakMemory(CPU)
    block = torch.ones(20_000_000)
    del block
    assert memory.added() == pytest.approx(80e6, rel=0.25)
    assert held.sum() > 0
