"""A record proves which images it was trained and evaluated on, and that they are not the same ones."""

import json
from copy import deepcopy

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from moppa.data.images import ImageFormat
from moppa.data.task import Protocol, Task
from moppa.data.task_data import TaskData
from moppa.record.cell import cell_from_config
from moppa.record.integrity import find_inconsistency
from moppa.record.schema import read_record
from moppa.record.task_changes import changed_task_settings, recorded_task_changes
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import CONFIGS, config_of
from tests.factories import record_of, write_record_file

WEIGHTS = "w" * 64
FINAL = Protocol(name="final", train="train800val200", evaluate="test")
SMALL = {"train": 12, "val": 6, "test": 6}


def linear(tmp_path, *overrides):
    return config_of(
        *overrides, "method=linear", "backbone=test_vit", "train=mini", "train.epochs=1", "train.batch_size=4",
        f"run.results={tmp_path / 'results'}", f"data.cache={tmp_path / 'cache'}",
    )  # fmt: skip


# the test split


def check_of(tmp_path, *overrides):
    config = config_of(*overrides, f"data.cache={tmp_path}")
    return TaskData(instantiate(config, "task"), instantiate(config, "data"), FINAL, ImageFormat(8, "bilinear")).check()


def test_training_images_as_the_test_set_of_real_eurosat_are_refused(shared, tmp_path):
    eurosat = ["task=eurosat", f"data.dir={shared / 'tfds'}", "task.num_test=800", "task.splits.test='train[:800]'"]
    with pytest.raises(UserError, match=r"test images are not the official ones.*task\.test_sha256=null"):
        check_of(tmp_path, *eurosat)
    check = check_of(tmp_path, *eurosat, "task.test_sha256=null")
    assert check["shared_images"] == {"val200 in train800": 0, "test in train800": 800, "test in val200": 0}
    task = OmegaConf.to_container(config_of(*eurosat, "task.test_sha256=null").task)
    assert changed_task_settings(task, CONFIGS) == ["num_test", "splits.test", "test_sha256.names"]


def test_training_images_as_the_test_set_of_a_mini_task_are_counted(tmp_path):
    check = check_of(tmp_path, "task=mini/digits", "task.splits.test='seed0[:797]'", "task.fingerprint=null")
    assert (check["verdict"], check["test"]) == ("no names", "no digest")
    assert check["shared_images"]["test in train800"] == 797


def test_the_record_of_an_unchecked_test_set_is_not_the_record_of_the_task(tmp_path):
    """The digest is not in the key, so that records from before it keep theirs; the verdict tells them apart."""
    overrides = ("task=eurosat", "method=linear")
    path = write_record_file(tmp_path, *overrides, "task.test_sha256=null", weights=WEIGHTS)
    record = json.loads(path.read_text())
    cells = [
        cell_from_config(config_of(*overrides, *more, f"run.results={tmp_path}"), weights_sha256=WEIGHTS)
        for more in ([], ["task.test_sha256=null"])
    ]
    assert [cell.record for cell in cells] == [path, path]
    changed = {"verdict": "changed", "changes": ["test_sha256"], "lineage": "tfds"}
    path.write_text(json.dumps(record | {"split": changed}))
    assert [cell.is_done for cell in cells] == [False, True]
    path.write_text(json.dumps(record | {"split": {"verdict": "official", "lineage": "tfds"}}))
    assert [cell.is_done for cell in cells] == [True, True]


def test_a_record_from_before_the_digest_is_of_the_same_task():
    record = record_of("task=eurosat")
    names = record["config"]["task"]["test_sha256"]["names"]
    for task in ({}, {"test_sha256": None}):
        old = deepcopy(record)
        old["config"]["task"].pop("test_sha256")
        old["config"]["task"] |= task
        assert recorded_task_changes(old, CONFIGS) == []
        old["split"]["test_sha256"] = {"names": names, "pixels": "1" * 64}
        assert recorded_task_changes(old, CONFIGS) == []
        old["split"]["test_sha256"] = {"names": None, "pixels": None}  # another source, without names
        assert recorded_task_changes(old, CONFIGS) == []
        old["split"]["test_sha256"] = {"names": "0" * 64, "pixels": "1" * 64}
        assert recorded_task_changes(old, CONFIGS) == ["test_sha256.names"]
    overridden = {**record, "split": {**record["split"], "changes": ["test_sha256"]}}
    assert recorded_task_changes(overridden, CONFIGS) == ["test_sha256"]


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ({"test": "official", "test_sha256": {"names": "0" * 64}}, "the names of its test split are not those"),
        ({"test": "official", "test_sha256": {"names": None}}, "has no digest of the test split"),
        ({"test": "official!!"}, "test split check is 'official!!'"),
    ],
)
def test_an_edited_check_of_the_test_split_is_found(split, problem):
    record = record_of("task=eurosat")
    assert find_inconsistency(record) == ""
    assert problem in find_inconsistency({**record, "split": {**record["split"], **split}})


# the user's own images


def draw(folder, *, color):
    for split, count in SMALL.items():
        for index in range(count):
            file = folder / split / "abc"[index % 3] / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((8, 8, 3), (color, len(split) * 10, index), np.uint8)
            Image.fromarray(pixels).save(file)
    return folder


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Overrides of a cell on 24 images of the user."""
    monkeypatch.setattr(Task, "num_images", lambda task, split: SMALL[task.splits[split]])
    draw(tmp_path / "a", color=1)
    return [
        "task=svhn", "task.name=shapes", "task.suite=own", "task.builder=own", "task.num_classes=3", "task.num_test=6",
        "task.splits={train800: train, val200: val, test: test}", "data=folder",
    ]  # fmt: skip


def test_the_record_says_which_images_were_read(own, tmp_path):
    cell = [*own, f"data.dir={tmp_path / 'a'}"]
    split = read_record(run_cell(linear(tmp_path, *cell)).record)["split"]
    assert (split["test"], split["lineage"], split["origin"]) == ("no digest", "own", None)
    assert set(split["test_sha256"]) == {"names", "pixels"}
    assert split["shared_images"] == {"val200 in train800": 0, "test in train800": 0, "test in val200": 0}
    split = read_record(run_cell(linear(tmp_path, *cell, "protocol=tune")).record)["split"]
    assert (split["test"], split["test_sha256"]) == ("not read", None)
    assert split["shared_images"] == {"val200 in train800": 0}
    assert set(split["content"]) == {"train800", "val200"}


def test_another_folder_is_not_the_same_cell(own, tmp_path, capsys):
    first = run_cell(linear(tmp_path, *own, f"data.dir={tmp_path / 'a'}"))
    content = read_record(first.record)["split"]["content"]
    assert set(content) == {"train800", "val200", "test"}
    draw(tmp_path / "b", color=2)
    for seed in (0, 1):
        with pytest.raises(UserError, match=r"seed0\.json was computed from other images or labels.*raise the task's"):
            run_cell(linear(tmp_path, *own, f"data.dir={tmp_path / 'b'}", f"seed={seed}"))
    (tmp_path / "a").rename(tmp_path / "moved")
    capsys.readouterr()
    run_cell(linear(tmp_path, *own, f"data.dir={tmp_path / 'moved'}"))
    assert capsys.readouterr().out.startswith("done already")
    other = run_cell(linear(tmp_path, *own, f"data.dir={tmp_path / 'b'}", "task.version=2"))
    assert read_record(other.record)["split"]["content"] != content


def test_a_relabelled_image_is_noticed(own, tmp_path):
    run_cell(linear(tmp_path, *own, f"data.dir={tmp_path / 'a'}"))
    (tmp_path / "a" / "test" / "a" / "0.png").rename(tmp_path / "a" / "test" / "b" / "0.png")
    with pytest.raises(UserError, match="other images or labels of test"):
        run_cell(linear(tmp_path, *own, f"data.dir={tmp_path / 'a'}", "seed=1"))


def test_an_image_in_two_splits_ends_the_run_before_the_training(own, tmp_path, monkeypatch):
    shared = (tmp_path / "a" / "train" / "a" / "0.png").read_bytes()
    (tmp_path / "a" / "test" / "b" / "1.png").write_bytes(shared)
    monkeypatch.setattr(TaskData, "load", lambda *_: pytest.fail("loaded"))
    cell = [*own, f"data.dir={tmp_path / 'a'}"]
    with pytest.raises(
        UserError, match=r"1 of 6 images of test are in train800, too: test/b/1\.png has the same pixels"
    ):
        run_cell(linear(tmp_path, *cell))
    monkeypatch.undo()
    monkeypatch.setattr(Task, "num_images", lambda task, split: SMALL[task.splits[split]])
    split = read_record(run_cell(linear(tmp_path, *cell, "data.allow_shared_images=true")).record)["split"]
    assert split["shared_images"]["test in train800"] == 1
