"""The demo: its cells, and as a slow test a whole run from the command line."""

import os
import signal
import subprocess
import sys
import time

import pytest

from moppa.backbone.weights_file import ASSETS
from moppa.demo import METHODS, Demo
from tests.conftest import ROOT, config_of


def demo_in(folder, **changes):
    settings = {"tasks": ("mini/digits", "mini/spots"), "methods": METHODS, "overrides": ("backbone=vit_micro",)}
    return Demo(results=folder, **{**settings, **changes})


def start_demo(folder, *overrides):
    selection = ["--tasks", "mini/digits", "mini/spots", "--methods", "linear", "moppa"]
    paths = ["--results", str(folder / "results"), f"data.cache={folder / 'cache'}"]
    return subprocess.Popen(
        [sys.executable, "scripts/demo.py", *selection, *paths, "train.epochs=1", *overrides],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored if the tests run in the background
    )


def test_every_cell_of_the_demo_has_its_own_record(tmp_path):
    records = demo_in(tmp_path).records()
    assert len(set(records.values())) == len(records) == 2 * len(METHODS)
    assert all(path.is_relative_to(tmp_path / "records" / "mini" / "vit_micro") for path in records.values())


def test_the_weights_are_part_of_the_package_and_small():
    [file] = ASSETS.glob("*.safetensors")
    assert file.stat().st_size < 6e6
    assert config_of("task=mini/spots", "backbone=vit_micro").backbone.weights == f"package:{file.name}"


@pytest.mark.slow
def test_an_interrupted_demo_resumes_and_prints_its_table(tmp_path):
    first = start_demo(tmp_path)
    records = tmp_path / "results" / "records"
    while first.poll() is None and not list(records.rglob("seed*.json")):
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGINT)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 130, out + err
    assert "run the same command again to resume" in err
    finished = {path: path.stat().st_mtime_ns for path in records.rglob("seed*.json")}
    assert 1 <= len(finished) < 4

    second = start_demo(tmp_path)
    out, err = second.communicate(timeout=600)
    assert second.returncode == 0, out + err
    assert len(list(records.rglob("seed*.json"))) == 4
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items())
    assert " correct" in out
    table = (tmp_path / "results" / "tables" / "mini-vit_micro-final.md").read_text()
    assert all(word in table for word in ("linear", "moppa", "Digits", "Spots"))
    assert "VTAB" not in table
    assert "<table" in (tmp_path / "results" / "tables" / "mini-vit_micro-final.html").read_text()
    assert "docs/mini.md" in out


@pytest.mark.slow
def test_a_failing_demo_prints_the_reason(tmp_path):
    process = start_demo(tmp_path, "train.lr=-1")
    out, _ = process.communicate(timeout=300)
    assert process.returncode not in (0, 130)
    assert "train.lr" in out
