"""Scripts run as a user starts them."""

import json

import pytest

from run import run_cell
from tests.conftest import config_of
from tests.run_script import script


@pytest.fixture
def moppa_record(toy, tmp_path):
    run_cell(config_of(*toy, "method=moppa"))
    [path] = (tmp_path / "results").rglob("seed0.json")
    return path


@pytest.mark.slow  # trains a cell and draws two figures
def test_routes_plots_the_routes_and_responses_of_a_record(moppa_record, tmp_path):
    process = script("plot_routes", moppa_record, "--out", tmp_path / "out")
    assert process.returncode == 0, process.stderr
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert set(sizes) == {f"seed0-{name}.{suffix}" for name in ("routes", "responses") for suffix in ("png", "svg")}
    assert min(sizes.values()) > 5000


def test_routes_reports_a_record_without_routes(toy, tmp_path):
    run_cell(config_of(*toy, "method=linear"))
    [path] = (tmp_path / "results").rglob("seed0.json")
    process = script("plot_routes", path)
    assert process.returncode == 1
    assert "holds no routes" in process.stderr
    assert "Traceback" not in process.stderr


def test_tables_are_written_and_a_corrupt_record_is_reported(moppa_record, tmp_path):
    process = script("tables", tmp_path / "results")
    assert process.returncode == 0
    assert (tmp_path / "results" / "tables" / "vtab1k-test_vit-final.md").exists()
    moppa_record.write_text("{")
    process = script("tables", tmp_path / "results")
    assert process.returncode == 1
    assert str(moppa_record) in process.stderr
    assert "Traceback" not in process.stderr


def test_tables_without_records_say_to_run_a_cell(tmp_path):
    process = script("tables", tmp_path)
    assert process.returncode == 1
    assert "run a cell first" in process.stderr


@pytest.mark.slow
def test_bench_adapter_writes_its_measurements(tmp_path):
    process = script("bench_adapter", "--rounds", 3, "--json", tmp_path / "bench.json")
    assert process.returncode == 0, process.stderr
    measured = json.loads((tmp_path / "bench.json").read_text())
    assert measured["r = 8"]["block"] > 0
    for form in ("naive", "channels first"):  # at r = 8 the overhead of forty small operations dominates in both
        assert measured["full width"][f"{form} / operator"] > 1


def test_a_run_uses_the_prepared_images(toy, tmp_path):
    process = script("prepare_data", *toy)
    assert process.returncode == 0, process.stderr
    assert "eurosat: 320 images at 32 px, no digest" in process.stdout
    run_cell(
        config_of(*toy, "method=linear", "+data.surplus=1")
    )  # one image too many: an error if the source were read


def test_prepare_reports_every_task_that_fails(tmp_path):
    words = [
        f"data.dir={tmp_path}",
        f"data.cache={tmp_path}",
        "data.download=false",
        "size=32",
        "interpolation=bicubic",
    ]
    process = script("prepare_data", "task=eurosat,resisc45", *words)
    assert process.returncode == 1
    assert "error: task eurosat: no prepared" in process.stderr
    assert "error: task resisc45: no prepared" in process.stderr
    assert "not prepared: eurosat, resisc45" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("words", "message"),
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
def test_prepare_rejects_bad_arguments_in_one_line(words, message, tmp_path):
    process = script("prepare_data", *words)
    assert process.returncode != 0
    assert message in process.stderr
    assert "Traceback" not in process.stderr


def test_check_lists_absent_tasks_and_how_to_get_them(tmp_path):
    process = script("check_data", f"data.dir={tmp_path}", f"data.cache={tmp_path}")
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("│ absent ") == 19
    assert "61.3 GB" in process.stdout
    assert "moppa data prepare task=cifar100,caltech101" in process.stdout
    assert "NWPU-RESISC45.rar" in process.stdout
    assert "trainLabels.csv" in process.stdout


@pytest.mark.slow
def test_check_reports_the_official_split_and_modified_images(shared, tmp_path):
    folders = [f"data.dir={shared / 'tfds'}", f"data.cache={tmp_path}"]
    words = ["task=eurosat", "size=16", "interpolation=bicubic", *folders]
    assert script("prepare_data", *words).returncode == 0
    process = script("check_data", *folders)
    assert process.returncode == 0, process.stdout
    assert "5,400 of 5,400" in process.stdout
    assert "official" in process.stdout
    [file] = tmp_path.glob("*/eurosat/*/test-16-*/images.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    process = script("check_data", *folders)
    assert process.returncode == 1
    assert f"wrong: the cached images in {file.parent}" in process.stdout
