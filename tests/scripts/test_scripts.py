"""The scripts as they are started: thin, but each must run."""

import json

import pytest
import torch

from moppa.bench.cell import cell_phases
from moppa.bench.steps import optimization_gains
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import CONFIGS, ROOT, config_of
from tests.run_script import script


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
    for form in ("naive", "channels first"):  # at r = 8 it is the starting of forty small operations in each
        assert found["full width"][f"{form} / operator"] > 1


BENCH = ["--timm", "test_vit", "--image-size", 64, "--rounds", 1, "--batch", 4]


def bench(tmp_path, *words):
    done = script("bench", *words, *BENCH, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.glob("*.json")
    return done.stdout, json.loads(path.read_text())


def test_the_benchmark_of_methods_sets_each_beside_the_frozen_backbone(tmp_path):
    bench(tmp_path, "methods", "--methods", "lora")
    shown, found = bench(tmp_path, "methods", "--methods", "linear")  # what was measured before stays
    assert "of GEMM" in shown
    assert "lora" in shown
    assert found["machine"]["gemm_flops_per_second"] > 1e9
    assert found["machine"]["copy_bytes_per_second"] > 1e8
    assert found["methods"]["linear"]["trainable_params"] == 0
    assert found["methods"]["lora"]["trainable_params"] == 6 * 2 * 2 * 64 * 8
    for one in found["methods"].values():
        assert one["step_flops"] > 1.5 * one["look_flops"] or one["trainable_params"] == 0
        assert min(one["step_seconds"], one["plain_seconds"], one["look_seconds"]) > 0
        assert one["peak_memory_bytes"] > 1e8


def test_the_benchmark_of_tricks_sets_each_beside_all(tmp_path):
    found = optimization_gains(CONFIGS, "test_vit", size=64, batch=4, device=torch.device("cpu"), rounds=1)
    assert set(found["look"]) < {*found["step"], "not merged"}
    assert all(seconds > 0 for kind in ("step", "look") for seconds in found[kind].values())


@pytest.mark.parametrize("rival", ["peft", pytest.param("plain", marks=pytest.mark.slow)])
def test_the_benchmark_against_an_ordinary_loop_reckons_whole_cells(rival, tmp_path):
    shown, found = bench(tmp_path, "--against", rival, "--images", 8)
    assert f"epoch: {rival} / ours" in shown
    ours, once, often = found["cell"].values()
    assert 0 < once < often
    seconds = found["seconds_per_image"]
    assert ours == pytest.approx(
        6400 * seconds["prepare"] + 1e5 * seconds["epoch, ours"] + 5400 * seconds["test, ours"]
    )


def test_the_benchmark_of_a_cell_counts_all_of_its_seconds(toy, tmp_path):
    shown, found = bench(tmp_path, "cell", "method=linear", *toy)
    assert "evaluate" in shown
    *phases, total = found["seconds"].values()
    assert sum(phases) == pytest.approx(total)


def test_a_cell_that_fails_ends_the_benchmark_with_what_it_said(tmp_path):
    with pytest.raises(UserError, match=r"run.py task=eurosat .* failed: .*seed=-1"):
        cell_phases(ROOT, ["task=eurosat", "seed=-1", "backbone=test_vit"])


def test_what_is_prepared_is_what_a_run_finds(toy, tmp_path):
    done = script("prepare_data", *toy)
    assert done.returncode == 0, done.stderr
    assert "eurosat: 1,120 images at 32 px, no names" in done.stdout
    run_cell(config_of(*toy, "method=linear", "+data.surplus=1"))  # would fail, were the source asked


def test_preparing_says_what_is_wrong_for_each_task_and_does_the_others(tmp_path):
    words = [
        f"data.dir={tmp_path}",
        f"data.cache={tmp_path}",
        "data.download=false",
        "size=32",
        "interpolation=bicubic",
    ]
    done = script("prepare_data", "task=eurosat,resisc45", *words)
    assert done.returncode == 1
    assert "error: task eurosat: no prepared" in done.stderr
    assert "error: task resisc45: no prepared" in done.stderr
    assert "not prepared: eurosat, resisc45" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "task=all"),
        (["task=cifar11"], "task/cifar11"),
        (["task=cifar100", "size=big", "interpolation=bicubic"], "size='big'"),
        (["task=cifar100", "size=0", "interpolation=bicubic"], "size=0"),
        (["task=cifar100", "size=8", "interpolation=nearest"], "interpolation='nearest'"),
        (["task=cifar100", "size=1000000", "interpolation=bicubic"], "needs"),
        (["task=cifar100", "dat.cache=x"], "dat"),
    ],
)
def test_preparing_what_makes_no_sense_is_said(words, said, tmp_path):
    done = script("prepare_data", *words)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_checking_data_works_without_any_and_tells_how_to_get_it(tmp_path):
    done = script("check_data", f"data.dir={tmp_path}", f"data.cache={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("│ absent ") == 19
    assert "61.3 GB" in done.stdout
    assert "scripts/prepare_data.py task=cifar100,caltech101" in done.stdout
    assert "NWPU-RESISC45.rar" in done.stdout
    assert "trainLabels.csv" in done.stdout


def test_checking_data_finds_what_is_official_and_fails_where_it_was_changed(shared, tmp_path):
    place = [f"data.dir={shared / 'tfds'}", f"data.cache={tmp_path}"]
    words = ["task=eurosat", "size=16", "interpolation=bicubic", *place]
    assert script("prepare_data", *words).returncode == 0
    done = script("check_data", *place)
    assert done.returncode == 0, done.stdout
    assert "5,400 of 5,400" in done.stdout
    assert "official" in done.stdout
    [file] = tmp_path.glob("*/eurosat/*/test-16-*/images.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    done = script("check_data", *place)
    assert done.returncode == 1
    assert f"wrong: the stored images in {file.parent}" in done.stdout
