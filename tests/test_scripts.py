"""The scripts as they are started: thin, but each must run."""

import json
import subprocess
import sys

import pytest

from run import run_cell
from tests.conftest import ROOT, config_of


def script(name, *words):
    return subprocess.run(
        [sys.executable, f"scripts/{name}.py", *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture
def moppa_record(toy, tmp_path):
    run_cell(config_of(*toy, "method=moppa"))
    [path] = (tmp_path / "results").rglob("seed0.json")
    return path


def test_the_routes_of_a_record_are_drawn(moppa_record, tmp_path):
    done = script("plot_routes", moppa_record, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    drawn = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert set(drawn) == {f"seed0-{name}.{suffix}" for name in ("routes", "responses") for suffix in ("png", "svg")}
    assert min(drawn.values()) > 5000


def test_a_record_without_routes_is_said(toy, tmp_path):
    run_cell(config_of(*toy, "method=linear"))
    [path] = (tmp_path / "results").rglob("seed0.json")
    done = script("plot_routes", path)
    assert done.returncode == 1
    assert "holds no routes" in done.stderr
    assert "Traceback" not in done.stderr


def test_tables_are_made_and_a_broken_record_is_said(moppa_record, tmp_path):
    done = script("tables", tmp_path / "results")
    assert done.returncode == 0
    assert (tmp_path / "results" / "tables" / "vtab1k-test_vit-final.md").exists()
    moppa_record.write_text("{")
    done = script("tables", tmp_path / "results")
    assert done.returncode == 1
    assert str(moppa_record) in done.stderr
    assert "Traceback" not in done.stderr


def test_tables_of_nothing_say_what_to_do(tmp_path):
    done = script("tables", tmp_path)
    assert done.returncode == 0
    assert "run a cell first" in done.stdout


@pytest.mark.slow
def test_the_benchmark_prints_its_shares(tmp_path):
    done = script("bench_adapter", "--rounds", 3, "--json", tmp_path / "bench.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["r = 8"]["block"] > 0
    assert found["r = 8"]["naive / operator"] > 1


def test_the_benchmark_of_methods_sets_each_beside_the_frozen_backbone(tmp_path):
    words = ["--timm", "test_vit", "--image-size", 64, "--rounds", 1, "--json", tmp_path / "bench.json"]
    done = script("bench_methods", "--methods", "linear", "lora", *words)
    assert done.returncode == 0, done.stderr
    assert "relative to the frozen" in done.stdout
    found = json.loads((tmp_path / "bench.json").read_text())["methods"]
    assert found["linear"]["trainable_params"] == 0
    assert found["lora"]["trainable_params"] == 6 * 2 * 2 * 64 * 8
    assert all(one["method"] > 0 and one["plain"] > 0 and one["peak_memory_bytes"] > 1e8 for one in found.values())
