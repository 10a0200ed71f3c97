"""What of the records counts, and what is left out by name."""

import json

import numpy as np
import pytest

from moppa.report.build import write_tables
from moppa.report.load import correctness, digest_records, load_records
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS
from tests.factories import put, put_predictions
from tests.run_script import script


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def spoil_config(path):
    content = json.loads(path.read_text())
    content["config"]["protocol"] = {"name": "tune", "train": "train800", "evaluate": "val200"}
    path.write_text(json.dumps(content))


FAULTS = {
    "not JSON": (lambda path: path.write_text("{"), "not JSON"),
    "half a record": (lambda path: path.write_text('{"suite": "vtab1k"}'), "lacks"),
    "more right than asked": (lambda path: change(path, correct=10**6), "counts 1000000"),
    "too few images": (lambda path: change(path, total=1879), "answers 1879 images, and test of dtd has 1880"),
    "another protocol within": (spoil_config, "it says protocol final, its config says tune"),
    "another task within": (lambda path: change(path, task="svhn"), "it says task svhn"),
    "a changed setting": (lambda path: change(path, weights={"name": "x", "sha256": "x" * 64}), "its key is"),
    "no lineage": (lambda path: change(path, split={}), "no lineage"),
    "no split": (lambda path: change(path, split=None), "not a record's"),
    "a list": (lambda path: path.write_text("[]"), "lacks"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_faulty_record_is_named_and_left_out_and_its_row_marked(fault, tmp_path):
    spoil, said = FAULTS[fault]
    path = put(tmp_path, "method=lora", "task=dtd", seed=1)
    put(tmp_path, "method=lora", "task=dtd")
    put(tmp_path, "method=linear", "task=dtd")
    spoil(path)
    made = write_tables(tmp_path, CONFIGS)
    [left_out] = made.left_out
    assert path.as_posix().endswith(left_out.place)
    assert said in left_out.reason
    assert {row.method: row.marks for row in made.tables[0].rows} == {"linear": "†", "lora": "†‡"}
    assert all(left_out.place.replace("_", r"\_" * (file.suffix == ".tex") or "_") in file.read_text()
               for file in made.written if file.suffix != ".csv")  # fmt: skip


def test_strict_writes_nothing_and_names_what_cannot_be_counted(tmp_path):
    put(tmp_path, "method=lora", "task=dtd").write_text("{")
    put(tmp_path, "method=linear", "task=dtd")
    with pytest.raises(UserError, match=r"1 records cannot be counted[^\n]*\nleft out: .*/vtab1k/vit_b16_mae/dtd/lora"):
        write_tables(tmp_path, CONFIGS, strict=True)
    assert not (tmp_path / "tables").exists()


def test_of_a_record_and_its_copy_the_one_in_its_place_counts(tmp_path):
    path = put(tmp_path, "method=lora", "task=dtd")
    copy = tmp_path / "records" / "copy" / path.relative_to(tmp_path / "records")
    copy.parent.mkdir(parents=True)
    copy.write_text(path.read_text())
    records, [left_out] = load_records(tmp_path)
    assert [one.path for one in records] == [path]
    assert left_out.place.startswith("copy/")
    assert "a second time" in left_out.reason


def test_of_two_copies_out_of_place_none_counts(tmp_path):
    path = put(tmp_path, "method=lora", "task=dtd")
    for name in ("a", "b"):
        (tmp_path / "records" / name).mkdir()
        (tmp_path / "records" / name / "seed0.json").write_text(path.read_text())
    path.unlink()
    records, left_out = load_records(tmp_path)
    assert not records
    assert len(left_out) == 2


def test_seeds_that_were_run_in_two_ways_are_mixed_and_none_counts(tmp_path):
    put(tmp_path, "method=lora", "task=dtd")
    put(tmp_path, "method=lora", "task=dtd", "task.fingerprint=null", seed=1)
    put(tmp_path, "method=lora", "task=svhn")
    made = write_tables(tmp_path, CONFIGS)
    assert len(made.left_out) == 2
    assert all("task.fingerprint" in one.reason for one in made.left_out)
    [row] = made.tables[0].rows
    assert row.values["dtd"].mean is None
    assert row.marks == "†‡"


def test_predictions_that_contradict_their_record_are_found_under_strict(tmp_path):
    path = put(tmp_path, "method=lora", "task=dtd", predictions=True)
    write_tables(tmp_path, CONFIGS, strict=True)
    put_predictions(path, json.loads(path.read_text()) | {"correct": 7})
    with pytest.raises(UserError, match="7 of 1880 right"):
        write_tables(tmp_path, CONFIGS, strict=True)
    path.with_suffix(".npz").write_bytes(b"PK\x03\x04 not whole")
    with pytest.raises(UserError, match="holds no predictions"):
        write_tables(tmp_path, CONFIGS, strict=True)


def test_a_record_that_its_predictions_contradict_counts_for_nothing_once_that_is_found(tmp_path):
    for method, percent in (("lora", 80), ("linear", 50)):
        for seed in (0, 1):
            path = put(tmp_path, f"method={method}", "task=dtd", seed=seed, percent=percent, predictions=True)
    put_predictions(path, json.loads(path.read_text()) | {"correct": 7})
    made = write_tables(tmp_path, CONFIGS)
    [false] = made.left_out
    assert path.as_posix().endswith(false.place)
    rows = {row.method: row for row in made.tables[0].rows}
    assert (rows["linear"].marks, rows["lora"].marks) == ("†‡", "†")
    assert rows["linear"].values["dtd"].num_seeds == 1
    assert rows["lora"].values["dtd"].standing == "best"


def test_a_record_of_no_known_task_is_named_and_an_empty_table_is_written(tmp_path):
    put(tmp_path, "method=lora", "task=dtd", "task.name=nosuch", "task.suite=vtab1k")
    made = write_tables(tmp_path, CONFIGS)
    assert "none of the suite vtab1k" in made.left_out[0].reason
    assert made.tables[0].rows == []
    assert len(made.written) == 4


def test_answers_say_which_images_were_right(tmp_path):
    put(tmp_path, "method=lora", "task=dtd", percent=50, predictions=True)
    put(tmp_path, "method=linear", "task=dtd")
    (linear, lora), _ = load_records(tmp_path)
    assert correctness(linear) is None
    assert np.array_equal(correctness(lora).right, np.arange(1880) < 940)


def test_the_digest_rests_on_places_and_bytes_and_not_on_order(tmp_path):
    path = put(tmp_path, "method=lora", "task=dtd")
    put(tmp_path, "method=linear", "task=dtd")
    records, _ = load_records(tmp_path)
    first = digest_records(records)
    assert digest_records(reversed(records)) == first
    path.write_text(path.read_text() + " ")
    assert digest_records(load_records(tmp_path)[0]) != first


@pytest.mark.parametrize(
    ("arguments", "status", "said"), [([], 3, "left out: /"), (["--strict"], 1, "error: 1 records cannot")]
)
def test_the_exit_status_says_that_a_record_was_left_out(arguments, status, said, tmp_path):
    put(tmp_path, "method=lora", "task=dtd")
    put(tmp_path, "method=linear", "task=dtd").write_text("{")
    done = script("tables", tmp_path, *arguments)
    assert done.returncode == status
    assert said in done.stderr
    assert ("lora" in done.stdout) is (status == 3)
