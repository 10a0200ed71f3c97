"""Which records count, and which are excluded and listed with the reason."""

import json
import shutil

import numpy as np
import pytest

from moppa.report.build import write_tables
from moppa.report.load import correctness, digest_records, load_records
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS
from tests.factories import write_predictions, write_record_file
from tests.run_script import script


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def change_protocol_in_config(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    content["config"]["protocol"] = {"name": "tune", "train": "train800", "evaluate": "val200"}
    path.write_text(json.dumps(content), encoding="utf-8")


FAULTS = {
    "not JSON": (lambda path: path.write_text("{"), "not JSON"),
    "half a record": (lambda path: path.write_text('{"suite": "vtab1k"}'), "lacks"),
    "more correct images than there are": (lambda path: change(path, correct=10**6), "counts 1000000"),
    "too few images": (lambda path: change(path, total=1879), "predictions of 1879 images, but test of dtd has 1880"),
    "another protocol in the config": (change_protocol_in_config, "its protocol is final, its config says tune"),
    "another task in the config": (lambda path: change(path, task="svhn"), "its task is svhn"),
    "a changed setting": (lambda path: change(path, weights={"name": "x", "sha256": "x" * 64}), "its key is"),
    "no lineage": (lambda path: change(path, split={}), "no lineage"),
    "no split": (lambda path: change(path, split=None), "not those of a record"),
    "a list": (lambda path: path.write_text("[]"), "lacks"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_faulty_record_is_excluded_and_listed_and_its_row_is_marked(fault, tmp_path):
    spoil, reason = FAULTS[fault]
    path = write_record_file(tmp_path, "method=lora", "task=dtd", seed=1)
    write_record_file(tmp_path, "method=lora", "task=dtd")
    write_record_file(tmp_path, "method=linear", "task=dtd")
    spoil(path)
    output = write_tables(tmp_path, CONFIGS)
    [excluded] = output.excluded
    assert path.as_posix().endswith(excluded.relative_path)
    assert reason in excluded.reason
    assert {row.method: row.marks for row in output.tables[0].rows} == {"linear": "†", "lora": "†‡"}
    for file in output.written:
        if file.suffix != ".csv":
            name = excluded.relative_path.replace("_", r"\_") if file.suffix == ".tex" else excluded.relative_path
            assert name in file.read_text(encoding="utf-8")


def test_strict_writes_nothing_and_lists_what_was_excluded(tmp_path):
    write_record_file(tmp_path, "method=lora", "task=dtd").write_text("{")
    write_record_file(tmp_path, "method=linear", "task=dtd", predictions=True)
    with pytest.raises(UserError, match=r"had to be excluded \(1\):\nexcluded: .*/vtab1k/vit_b16_mae/dtd/lora"):
        write_tables(tmp_path, CONFIGS, strict=True)
    assert not (tmp_path / "tables").exists()


def test_of_two_copies_the_one_at_the_path_of_its_key_counts(tmp_path):
    path = write_record_file(tmp_path, "method=lora", "task=dtd")
    copy = tmp_path / "records" / "copy" / path.relative_to(tmp_path / "records")
    copy.parent.mkdir(parents=True)
    shutil.copy(path, copy)
    records, [excluded] = load_records(tmp_path)
    assert [record.path for record in records] == [path]
    assert excluded.relative_path.startswith("copy/")
    assert "the same cell is also in" in excluded.reason


def test_of_two_copies_at_other_paths_none_counts(tmp_path):
    path = write_record_file(tmp_path, "method=lora", "task=dtd")
    for name in ("a", "b"):
        (tmp_path / "records" / name).mkdir()
        shutil.copy(path, tmp_path / "records" / name / "seed0.json")
    path.unlink()
    records, excluded = load_records(tmp_path)
    assert not records
    assert len(excluded) == 2


def test_seeds_with_different_settings_are_all_excluded(tmp_path):
    write_record_file(tmp_path, "method=lora", "task=dtd")
    write_record_file(tmp_path, "method=lora", "task=dtd", "+data.other=1", seed=1)
    write_record_file(tmp_path, "method=lora", "task=svhn")
    output = write_tables(tmp_path, CONFIGS)
    assert len(output.excluded) == 2
    assert all("data.other" in file.reason for file in output.excluded)
    [row] = output.tables[0].rows
    assert row.values["dtd"].mean is None
    assert row.marks == "†‡"


def test_strict_finds_predictions_that_contradict_their_record(tmp_path):
    path = write_record_file(tmp_path, "method=lora", "task=dtd", predictions=True)
    write_tables(tmp_path, CONFIGS, strict=True)
    write_predictions(path, json.loads(path.read_text(encoding="utf-8")) | {"correct": 7})
    with pytest.raises(UserError, match="has changed since its record was written"):
        write_tables(tmp_path, CONFIGS, strict=True)
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({name: value for name, value in content.items() if name != "predictions"}))
    with pytest.raises(UserError, match="7 of 1880 images correct"):  # a record from before the digest
        write_tables(tmp_path, CONFIGS, strict=True)
    path.with_suffix(".npz").write_bytes(b"PK\x03\x04 not whole")
    with pytest.raises(UserError, match="no readable predictions"):
        write_tables(tmp_path, CONFIGS, strict=True)


def test_a_record_that_its_predictions_contradict_is_excluded_once_they_are_read(tmp_path):
    for method, percent in (("lora", 80), ("linear", 50)):
        for seed in range(4):
            path = write_record_file(
                tmp_path, f"method={method}", "task=dtd", seed=seed, percent=percent, predictions=True
            )
    write_predictions(path, json.loads(path.read_text(encoding="utf-8")) | {"correct": 7})
    output = write_tables(tmp_path, CONFIGS)
    [excluded] = output.excluded
    assert path.as_posix().endswith(excluded.relative_path)
    rows = {row.method: row for row in output.tables[0].rows}
    assert (rows["linear"].marks, rows["lora"].marks) == ("†‡", "†")
    assert rows["linear"].values["dtd"].num_seeds == 3
    assert rows["lora"].values["dtd"].mark == "best"


def test_a_record_of_an_unknown_task_is_excluded_and_an_empty_table_is_written(tmp_path):
    write_record_file(tmp_path, "method=lora", "task=dtd", "task.name=nosuch", "task.suite=vtab1k")
    output = write_tables(tmp_path, CONFIGS)
    assert "task nosuch of the suite vtab1k" in output.excluded[0].reason
    assert output.tables[0].rows == []
    assert len(output.written) == 4


def test_predictions_say_which_images_are_correct(tmp_path):
    write_record_file(tmp_path, "method=lora", "task=dtd", percent=50, predictions=True)
    write_record_file(tmp_path, "method=linear", "task=dtd")
    (linear, lora), _ = load_records(tmp_path)
    assert correctness(linear) is None
    assert np.array_equal(correctness(lora).correct, np.arange(1880) < 940)


def test_the_digest_depends_on_paths_and_contents_but_not_on_order(tmp_path):
    path = write_record_file(tmp_path, "method=lora", "task=dtd")
    write_record_file(tmp_path, "method=linear", "task=dtd")
    records, _ = load_records(tmp_path)
    first = digest_records(records)
    assert digest_records(reversed(records)) == first
    path.write_bytes(path.read_bytes() + b" ")
    assert digest_records(load_records(tmp_path)[0]) != first


@pytest.mark.parametrize(
    ("arguments", "status", "message"), [([], 3, "excluded: /"), (["--strict"], 1, "error: nothing was written")]
)
def test_the_exit_status_says_that_a_record_was_excluded(arguments, status, message, tmp_path):
    write_record_file(tmp_path, "method=lora", "task=dtd")
    write_record_file(tmp_path, "method=linear", "task=dtd").write_text("{")
    process = script("tables", tmp_path, *arguments)
    assert process.returncode == status
    assert message in process.stderr
    assert ("lora" in process.stdout) is (status == 3)
