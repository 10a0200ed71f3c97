"""The demo: what it would run, and, where there is time, all of it from the command line."""

import os
import signal
import subprocess
import sys
import time

import pytest

from moppa.backbone.model import ASSETS
from moppa.demo import METHODS, Demo
from tests.conftest import ROOT, config_of


def demo_in(folder, **changes):
    settings = {"tasks": ("mini/digits", "mini/spots"), "methods": METHODS, "words": ("backbone=vit_micro",)}
    return Demo(root=ROOT, results=folder, **{**settings, **changes})


def words(folder, *more):
    asked = ["--tasks", "mini/digits", "mini/spots", "--methods", "linear", "moppa", "--results", folder / "results"]
    return [*map(str, asked), "train.epochs=1", f"data.cache={folder / 'store'}", *more]


def started(folder, *more):
    return subprocess.Popen(
        [sys.executable, "scripts/demo.py", *words(folder, *more)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored where the tests run in the background
    )


def test_every_cell_of_the_demo_is_one_of_its_own(tmp_path):
    records = demo_in(tmp_path).records()
    assert len(set(records.values())) == len(records) == 2 * len(METHODS)
    assert all(path.is_relative_to(tmp_path / "records" / "mini" / "vit_micro") for path in records.values())


def test_the_weights_come_with_the_package_and_are_small():
    [file] = ASSETS.glob("*.safetensors")
    assert file.stat().st_size < 6e6
    assert config_of("task=mini/spots", "backbone=vit_micro").backbone.weights == f"package:{file.name}"


@pytest.mark.slow
def test_the_demo_runs_shows_its_table_and_goes_on_where_it_was_stopped(tmp_path):
    first = started(tmp_path)
    records = tmp_path / "results" / "records"
    while first.poll() is None and not list(records.rglob("seed*.json")):
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGINT)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 130, out + err
    assert "goes on where it was" in err
    kept = {path: path.stat().st_mtime_ns for path in records.rglob("seed*.json")}
    assert 1 <= len(kept) < 4

    second = started(tmp_path)
    out, err = second.communicate(timeout=600)
    assert second.returncode == 0, out + err
    assert len(list(records.rglob("seed*.json"))) == 4
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    table = (tmp_path / "results" / "tables" / "mini-vit_micro-final.md").read_text()
    assert all(word in table for word in ("linear", "moppa", "Digits", "Spots"))
    assert "VTAB" not in table
    assert "<table" in (tmp_path / "results" / "tables" / "mini-vit_micro-final.html").read_text()
    assert "docs/mini.md" in out


@pytest.mark.slow
def test_a_demo_that_fails_says_why(tmp_path):
    done = started(tmp_path, "train.lr=-1")
    out, _ = done.communicate(timeout=300)
    assert done.returncode not in (0, 130)
    assert "train.lr" in out
