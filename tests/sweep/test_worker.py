"""Leases, failures, and what a killed worker leaves behind. Random kills are in test_chaos.py."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from moppa.record.cell import cell_from_config
from moppa.sweep import lease as lease_module
from moppa.sweep.lease import acquire_lease
from moppa.sweep.worker import lease
from moppa.utils.errors import UserError
from moppa.utils.signals import EXIT_REQUEUE, Stopped
from tests.conftest import ROOT, config_of

ACQUIRE_AND_WAIT = """
import signal, sys
from pathlib import Path
from moppa.sweep.lease import acquire_lease
lease = acquire_lease(Path(sys.argv[1]))
print("acquired" if lease else "refused", flush=True)
signal.pause()
"""
BEAT = """
import os, sys, time
while True:
    os.utime(sys.argv[1])
    time.sleep(0.1)
"""
LEASE_ELSEWHERE = "filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=t\nduration=0.5\n"


def cell_in(folder):
    return cell_from_config(config_of("task=eurosat", "method=lora", f"run.results={folder}"), weights_sha256="w")


@pytest.fixture
def start():
    """Starts Python code with a path as its argument; what still runs at the end of the test is killed."""
    processes = []

    def start_process(code, path):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code, str(path)]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start_process
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_cell_has_one_worker_at_a_time_and_is_free_afterwards(tmp_path, capsys):
    cell = cell_in(tmp_path)
    with lease(cell) as first, lease(cell) as second:
        assert (first, second) == (True, False)
        assert f"is running elsewhere (process {os.getpid()} on " in capsys.readouterr().err
    with lease(cell) as third:
        assert third
    assert files_in(tmp_path) == []


def test_the_lease_of_a_live_process_is_respected_and_that_of_a_killed_one_is_taken_over_at_once(tmp_path, start):
    path = tmp_path / "seed0.lease"
    worker = start(ACQUIRE_AND_WAIT, path)
    assert worker.stdout.readline() == "acquired\n"
    assert acquire_lease(path) is None
    worker.kill()
    worker.wait()
    began = time.monotonic()
    file_lease = acquire_lease(path)
    assert file_lease is not None
    assert time.monotonic() - began < 1
    file_lease.release()
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("age", [10, -3600], ids=["expired", "from a clock that is an hour ahead"])
def test_a_lease_of_another_machine_is_taken_over_after_watching_it_without_a_heartbeat(age, tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", 0.5)
    path = tmp_path / "seed0.lease"
    path.write_text(LEASE_ELSEWHERE)
    assert acquire_lease(path) is None  # it has not expired
    os.utime(path, (time.time() - age,) * 2)
    file_lease = acquire_lease(path)
    assert file_lease is not None
    file_lease.release()


def test_a_lease_of_another_machine_with_a_heartbeat_is_respected(tmp_path, monkeypatch, start):
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", 0.5)
    path = tmp_path / "seed0.lease"
    path.write_text(LEASE_ELSEWHERE)
    os.utime(path, (time.time() - 10,) * 2)
    start(BEAT, path)
    assert acquire_lease(path) is None


@pytest.mark.parametrize("age", [10, -3600])
def test_an_unsigned_lease_expires(age, tmp_path):
    path = tmp_path / "seed0.lease"
    path.touch()
    assert acquire_lease(path) is None  # its worker may be about to sign it
    os.utime(path, (time.time() - age,) * 2)
    file_lease = acquire_lease(path)
    assert file_lease is not None
    file_lease.release()
    assert files_in(tmp_path) == []


def test_a_failure_is_saved_with_its_traceback_and_removed_after_a_success(tmp_path, capsys):
    cell = cell_in(tmp_path)

    def divide():
        with lease(cell):
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        divide()
    assert files_in(tmp_path) == ["seed0.failed"]
    failure = json.loads(cell.failure.read_text())
    assert failure["error"] == "ZeroDivisionError: division by zero"
    assert "    _ = 1 / 0" in failure["traceback"]
    assert failure["config"]["method"]["name"] == "lora"
    assert str(cell.failure) in capsys.readouterr().err
    with lease(cell):
        pass
    assert files_in(tmp_path) == []


def test_sigterm_outside_the_training_releases_the_lease_and_exits_with_the_requeue_status(tmp_path):
    cell = cell_in(tmp_path)

    def preempted():
        with lease(cell):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()

    with pytest.raises(Stopped) as stopped:
        preempted()
    assert stopped.value.code == EXIT_REQUEUE
    assert files_in(tmp_path) == []


def test_partial_files_of_a_killed_worker_are_removed_and_those_of_other_seeds_are_not(tmp_path):
    cell = cell_in(tmp_path)
    own = [cell.record.with_name(".seed0.json.0123abcd.tmp"), cell.checkpoint.with_name(".seed0.pt.0123abcd.tmp")]
    others = [cell.record.with_name(".seed01.json.0123abcd.tmp"), cell.checkpoint.with_name("seed1.pt")]
    for path in (*own, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with lease(cell):
        assert files_in(tmp_path) == sorted([*(path.name for path in others), "seed0.lease"])


def test_a_results_folder_that_cannot_be_written_is_an_error_before_the_cell_starts(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="a file in place of a folder"),
        lease(cell_in(tmp_path / "file")),
    ):
        pytest.fail("the cell must not start")
