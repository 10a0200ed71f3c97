"""Claims, failures and what a killed worker leaves, without the chaos."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from moppa.record.cell import cell_from_config
from moppa.sweep import lease as claims
from moppa.sweep.lease import acquire_lease
from moppa.sweep.worker import lease
from moppa.utils.errors import UserError
from moppa.utils.signals import EXIT_REQUEUE, Stopped
from tests.conftest import ROOT, config_of

HOLD = """
import signal, sys
from pathlib import Path
from moppa.sweep.lease import acquire_lease
claim = claimed(Path(sys.argv[1]))
print("held" if claim else "refused", flush=True)
signal.pause()
"""
BEAT = """
import os, sys, time
while True:
    os.utime(sys.argv[1])
    time.sleep(0.1)
"""


def cell_in(folder):
    return cell_from_config(config_of("task=eurosat", "method=lora", f"run.results={folder}"), weights_sha256="w")


def process(code, path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, str(path)], env=environment, stdout=subprocess.PIPE, text=True)


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_cell_is_one_workers_at_a_time_and_free_after_it(tmp_path, capsys):
    cell = cell_in(tmp_path)
    with lease(cell) as first, lease(cell) as second:
        assert (first, second) == (True, False)
        assert f"at work elsewhere (process {os.getpid()} on " in capsys.readouterr().err
    with lease(cell) as third:
        assert third
    assert files_in(tmp_path) == []


def test_a_claim_of_a_live_process_stands_and_that_of_a_killed_one_is_taken_over_at_once(tmp_path):
    path = tmp_path / "seed0.claim"
    holder = process(HOLD, path)
    assert holder.stdout.readline() == "held\n"
    assert acquire_lease(path) is None
    holder.kill()
    holder.communicate()
    began = time.monotonic()
    claim = acquire_lease(path)
    assert claim is not None
    assert time.monotonic() - began < 1
    claim.release()
    assert files_in(tmp_path) == []


def test_a_claim_of_another_machine_is_taken_over_once_it_was_watched_for_a_lease_without_a_heartbeat(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.5)
    path = tmp_path / "seed0.claim"
    path.write_text("filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=t\nduration=0.5\n")
    assert acquire_lease(path) is None  # it is young
    os.utime(path, (time.time() - 10,) * 2)
    claim = acquire_lease(path)
    assert claim is not None
    claim.release()


def test_a_claim_of_another_machine_that_still_beats_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.5)
    path = tmp_path / "seed0.claim"
    path.write_text("filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=t\nduration=0.5\n")
    os.utime(path, (time.time() - 10,) * 2)
    beat = process(BEAT, path)
    assert acquire_lease(path) is None
    beat.kill()
    beat.communicate()


def test_a_claim_without_a_name_in_it_holds_nobody_up(tmp_path):
    path = tmp_path / "seed0.claim"
    path.touch()
    assert acquire_lease(path) is None  # its worker may be about to write it
    os.utime(path, (time.time() - 10,) * 2)
    claim = acquire_lease(path)
    assert claim is not None
    claim.release()
    assert files_in(tmp_path) == []


def test_a_failure_is_kept_with_its_traceback_and_forgotten_after_a_success(tmp_path, capsys):
    cell = cell_in(tmp_path)

    def divide():
        with lease(cell):
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        divide()
    assert files_in(tmp_path) == ["seed0.failed"]
    failure = json.loads(cell.failure.read_text())
    assert failure["error"] == "ZeroDivisionError: division by zero"
    assert "_ = 1 / 0" in failure["traceback"]
    assert failure["config"]["method"]["name"] == "lora"
    assert str(cell.failure) in capsys.readouterr().err
    with lease(cell):
        pass
    assert files_in(tmp_path) == []


def test_sigterm_outside_the_training_gives_the_claim_back_and_asks_for_a_requeue(tmp_path):
    cell = cell_in(tmp_path)

    def preempted():
        with lease(cell):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()

    with pytest.raises(Stopped) as stopped:
        preempted()
    assert stopped.value.code == EXIT_REQUEUE
    assert files_in(tmp_path) == []


def test_what_a_killed_worker_left_half_written_is_removed_and_other_seeds_are_left_alone(tmp_path):
    cell = cell_in(tmp_path)
    own = [cell.record.with_name(".seed0.json.0123abcd.tmp"), cell.checkpoint.with_name(".seed0.pt.0123abcd.tmp")]
    others = [cell.record.with_name(".seed01.json.0123abcd.tmp"), cell.checkpoint.with_name("seed1.pt")]
    for path in (*own, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with lease(cell):
        assert files_in(tmp_path) == sorted([*(path.name for path in others), "seed0.claim"])


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_run(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="a file stands where a folder is needed"),
        lease(cell_in(tmp_path / "file")),
    ):
        pytest.fail("the cell must not begin")
