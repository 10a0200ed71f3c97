"""VTAB with all training images, and FGVC: definitions, split sizes and what the split check proves."""

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import tensorflow_datasets as tfds
import torch

from moppa.data.check import split_check
from moppa.data.images import ImageFormat
from moppa.data.published_splits import published_rows
from moppa.data.split import check_names
from moppa.data.task import SPLITS, check_split, split_fingerprint, start_fingerprint
from moppa.data.task_data import TaskData
from moppa.record.integrity import find_split_problem
from moppa.train.batches import epoch_order, training_batches
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.seeds import generator_for
from moppa.utils.yaml_files import read_yaml
from tests.conftest import CONFIGS, config_of
from tests.data.test_all_tasks import SPLIT_SIZES
from tests.test_configs import TASKS

FGVC = sorted(path.stem for path in (CONFIGS / "task" / "fgvc").glob("*.yaml"))
SIZES = {  # of the official training and test sets, from their papers, and those of VPT's validation sets
    "caltech_birds2011": (5_994, 5_794, 600),
    "cars196": (8_144, 8_041, 815),
    "nabirds": (23_929, 24_633, 2_393),
    "stanford_dogs": (12_000, 8_580, 1_200),
}


def task_of(name):
    return instantiate(config_of(f"task={name}"), "task")


def ranges_of(split, sizes):
    """Returns the examples that TFDS selects for a split, as (name of the TFDS split, first, end)."""
    infos = {name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0) for name, size in sizes.items()}
    return [
        (part.splitname, part.from_ or 0, sizes[part.splitname] if part.to is None else part.to)
        for part in tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    ]


def check_ranges(task, sizes):
    """Asserts that the splits of a task have its numbers of images and share none; returns their ranges."""
    ranges = {split: ranges_of(task.splits[split], sizes) for split in SPLITS}
    for split, [(_, first, end)] in ranges.items():
        assert end - first == task.num_images(split)
    everything = sorted(part for of_split in ranges.values() for part in of_split)
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in itertools.pairwise(everything))
    return ranges


# VTAB with all training images


def test_vtab_full_is_vtab_with_other_training_images():
    changed = ("suite", "splits", "num_train", "num_val", "fingerprint")
    assert sorted(path.stem for path in (CONFIGS / "task" / "vtab_full").glob("*.yaml")) == TASKS
    for name in TASKS:
        full, vtab = (read_yaml(CONFIGS / "task" / f"{folder}{name}.yaml") for folder in ("vtab_full/", ""))
        assert {key: full[key] for key in vtab if key not in changed} == {
            key: vtab[key] for key in vtab if key not in changed
        }
        assert full["splits"]["test"] == vtab["splits"]["test"]
        official = vtab["fingerprint"]
        assert full["fingerprint"] == (
            official
            and {"first800_sorted": official["train800_sorted"], "first200_in_order": official["val200_in_order"]}
        )


@pytest.mark.parametrize("name", TASKS)
def test_the_splits_of_vtab_full_begin_with_those_of_vtab_1k_and_share_no_image(name):
    full, vtab = task_of(f"vtab_full/{name}"), task_of(name)
    sizes = SPLIT_SIZES[full.builder.partition(":")[0]]
    ranges = check_ranges(full, sizes)
    for split, count in (("train800", 800), ("val200", 200)):
        [(name_of_split, first, _)] = ranges[split]
        assert ranges_of(vtab.splits[split], sizes) == [(name_of_split, first, first + count)]
    has_all = sum(full.num_images(split) for split in SPLITS) == sum(sizes.values())
    assert has_all or name.startswith("clevr")  # whose test split is VTAB's choice: TFDS's validation split


def test_the_start_of_a_split_is_compared_with_vtab_1k():
    task = task_of("vtab_full/dtd")
    train, val = [f"t{index}" for index in range(900)], [f"v{index}" for index in range(300)]
    task = replace(task, fingerprint=start_fingerprint(train, val))
    assert check_split(task, train, val) == "official start"
    assert check_split(task, [*train[:800], "x"], [*val[:200], "y"]) == "official start"  # all that is proven
    assert [check_names(task, split, names) for split, names in (("train800", train), ("val200", val))] == [
        "official start"
    ] * 2
    for wrong in (train[1:], val), (train, val[1:]), (train, [val[1], val[0], *val[2:]]):
        with pytest.raises(UserError, match="not the official split"):
            check_split(task, *wrong)
    assert check_names(task, "train800", train[1:]) == check_names(task, "val200", val[1:]) == "differs"
    assert check_split(replace(task, fingerprint=None), train, val) == "no digest"
    assert check_split(replace(task, fingerprint=split_fingerprint(train, val)), train, val) == "official"
    record = {"lineage": "tfds", "verdict": "official start", "fingerprint": start_fingerprint(train, val)}
    assert find_split_problem(record, task.fingerprint) == ""
    assert "first800_sorted is not" in find_split_problem(record, start_fingerprint(train[1:], val))


def test_an_epoch_takes_the_next_images_of_shuffled_passes():
    passes = [torch.randperm(10, generator=generator_for(3, "order", index)) for index in range(4)]
    epochs = [epoch_order(10, 4, seed=3, epoch=epoch) for epoch in range(10)]
    assert torch.equal(torch.cat(epochs), torch.cat(passes))
    assert torch.equal(epoch_order(10, 10, seed=3, epoch=2), passes[2])
    assert len(epoch_order(10, 25, seed=3, epoch=1)) == 25


def test_a_recipe_by_steps_takes_as_many_steps_of_any_number_of_images():
    recipe = instantiate(config_of("task=vtab_full/eurosat", "train=vtab_full", "train.epochs=3"), "train")
    for num_images in (300, 1000, 21600):
        steps = list(training_batches(num_images, recipe, seed=0, start=0))
        assert [index for index, _ in steps] == list(range(3 * 16))
        assert sum(len(batch) for _, batch in steps) == 3000
        resumed = list(training_batches(num_images, recipe, seed=0, start=20))
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(steps[20:], resumed, strict=True))


# FGVC


@pytest.mark.parametrize("name", FGVC)
def test_fgvc_has_the_classes_and_images_of_the_builders_and_vpts_sizes(name):
    task = task_of(f"fgvc/{name}")
    if name == "oxford_flowers102":
        assert (task.num_train, task.num_val, task.num_test) == (1_020, 1_020, 6_149)
        assert dict(task.splits) == {"train800": "train", "val200": "validation", "test": "test"}
    else:
        num_official, num_test, num_val = SIZES[name]
        assert (task.num_train, task.num_val, task.num_test) == (int(0.9 * num_official), num_val, num_test)
        assert task.num_train + task.num_val == num_official
    if name == "nabirds":
        return  # which TFDS does not have
    info = tfds.builder(task.builder).info
    assert info.features["label"].num_classes == task.num_classes
    assert task.name_key in info.features
    stated = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\d", info.description)}
    total = task.num_train + task.num_val + task.num_test
    assert name == "oxford_flowers102" or total in stated or {total - task.num_test, task.num_test} <= stated
    sizes = SPLIT_SIZES.get(name) or {"train": total - task.num_test, "test": task.num_test}
    check_ranges(task, sizes)


@pytest.fixture
def birds(tmp_path):
    """A folder in NABirds' layout with 40 images, 20 of them official training images, and its task."""
    lines = [(f"id{index}", f"{index % 4:04d}/{index} a.jpg", index % 4 * 100, index % 2) for index in range(40)]
    for name, column in {"images.txt": 1, "image_class_labels.txt": 2, "train_test_split.txt": 3}.items():
        (tmp_path / name).write_text("".join(f"{line[0]} {line[column]}\n" for line in lines))
    (tmp_path / "images" / "0000").mkdir(parents=True)
    (tmp_path / "images" / "0000" / "0 a.jpg").touch()
    return tmp_path, replace(task_of("fgvc/nabirds"), num_train=18, num_val=2, num_test=20, num_classes=4)


def test_nabirds_is_divided_by_vpts_rule(birds):
    folder, task = birds
    rows, is_vpt = published_rows(folder, task)
    assert not is_vpt
    assert [sum(split == name for _, _, split in rows) for name in ("train", "val", "test")] == [18, 2, 20]
    for path, label, split in rows:
        index = int(re.search(r"/(\d+) a", path)[1])
        assert (path, label) == (f"images/{index % 4:04d}/{index} a.jpg", str(index % 4 * 100))
        assert (split == "test") == (index % 2 == 0)
    assert published_rows(folder, task)[0] == rows


def test_vpts_own_files_decide_if_they_are_there(birds):
    folder, task = birds
    paths = [f"{index % 4:04d}/{index} a.jpg" for index in range(40)]
    parts = {"train": paths[:18], "val": paths[18:20], "test": paths[20:]}
    for name, part in parts.items():
        (folder / f"{name}.json").write_text(json.dumps(dict.fromkeys(part, 7)))
    rows, is_vpt = published_rows(folder, task)
    assert is_vpt
    assert rows == [(f"images/{path}", "7", name) for name, part in parts.items() for path in part]
    cub = replace(task, splits={"train800": "train[:18]", "val200": "train[18:]", "test": "test"})
    assert {split for _, _, split in published_rows(folder, cub)[0]} == set(cub.splits.values())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("images.txt", None, r"neither VPT's train\.json, .* nor images\.txt"),
        ("images/0000/0 a.jpg", None, "unpack the images"),
        ("train_test_split.txt", "id0 1\n", "cannot be read .*download them again"),
        ("train_test_split.txt", "".join(f"id{index} 0\n" for index in range(40)), "0 images for train, task nabirds"),
    ],
)
def test_files_of_another_data_set_are_one_line(birds, file, content, message):
    folder, task = birds
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(UserError, match=message):
        published_rows(folder, task)


# real images


@pytest.mark.slow
def test_all_images_of_real_eurosat_begin_with_those_of_vtab_1k(shared, tmp_path):
    config = config_of("task=vtab_full/eurosat", f"data.dir={shared / 'tfds'}", f"data.cache={tmp_path}")
    task, source, protocol = (instantiate(config, group) for group in ("task", "data", "protocol"))
    data = TaskData(task, source, protocol, ImageFormat(8, "bilinear"))
    check = split_check(task, source, data.folders)
    assert (check["verdict"], check["test"]) == ("official start", "official")
    assert set(check["fingerprint"]) > set(task.fingerprint)
    assert np.bincount(data.load("train800val200").labels).sum() == 21_600
