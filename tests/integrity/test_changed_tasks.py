"""A task whose definition was overridden never passes as the task of that name."""

import pytest

from moppa.record.schema import read_record
from moppa.report.build import write_tables
from run import run_cell
from tests.conftest import CONFIGS, config_of
from tests.factories import write_record_file

TASKS = [path.stem for path in sorted((CONFIGS / "task").glob("*.yaml"))]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def split_of_cell(cache, results, *overrides):
    """Returns what the record of a trained cell on the digits says of its split."""
    config = config_of(
        "task=mini/digits", "method=linear", "backbone=test_vit", "backbone.image_size=32", "train=mini",
        "train.epochs=1", "train.weight_decay=1", *overrides, f"run.results={results}", f"data.cache={cache}",
    )  # fmt: skip
    return read_record(run_cell(config).record)["split"]


@pytest.mark.parametrize(
    "override",
    [
        "task.splits.test='seed0[:797]'",
        "task.splits.train800='seed0[997:1797]'",
        pytest.param("task.splits.val200='seed0[1000:1200]'", marks=pytest.mark.slow),
    ],
)
def test_other_images_make_the_split_check_changed(override, cache, tmp_path):
    split = split_of_cell(cache, tmp_path, override, "task.fingerprint=null")
    assert split["verdict"] == "changed"
    assert split["changes"]


def test_other_classes_make_the_split_check_changed(cache, tmp_path):
    split = split_of_cell(cache, tmp_path, "task.num_classes=11")
    assert split["verdict"] == "changed"
    assert split["changes"]


def test_an_unchanged_task_is_official_and_its_pixels_are_recorded(cache, tmp_path):
    split = split_of_cell(cache, tmp_path)
    assert split["verdict"] == "official"
    assert set(split["pixels_sha256"]) == {"train800val200", "test"}
    assert len(set(split["pixels_sha256"].values())) == 2


def test_a_changed_task_names_its_row_and_gets_neither_marks_nor_means(tmp_path):
    for task in TASKS:
        changed = [f"task={task}", "task.splits.test=train"]
        write_record_file(tmp_path, "method=lora", *changed, percent=90, predictions=True)
    rows = {row.method: row for row in write_tables(tmp_path, CONFIGS).tables[0].rows}
    assert rows["lora"].name.startswith("lora (task changed: ")
    assert "splits.test" in rows["lora"].name
    values = rows["lora"].values
    assert values["dtd"].mean == pytest.approx(90, abs=0.1)
    assert {value.mark for value in values.values()} == {""}
    assert (values["mean_natural"].mean, values["mean_groups"].mean, values["mean_tasks"].mean) == (None, None, None)
