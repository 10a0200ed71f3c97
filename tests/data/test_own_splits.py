"""`moppa data split`: the user's images, of any number, become the splits of a task or the folds of several."""

import csv
from collections import Counter

import pytest
from omegaconf import OmegaConf
from PIL import Image

from moppa.cli import data_split
from moppa.data.own_splits import find_images, fold_images, split_images
from moppa.utils.errors import SettingError, UserError


@pytest.fixture
def folder(tmp_path):
    """23 images in two classes, one of them twice."""
    for label, count in (("disc", 16), ("ring", 7)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(count):
            color = (10 * index, 200 * (label == "ring"), 0)
            Image.new("RGB", (4, 4), color).save(tmp_path / "images" / label / f"{index}.png")
    (tmp_path / "images" / "disc" / "again.png").write_bytes((tmp_path / "images" / "disc" / "0.png").read_bytes())
    return tmp_path / "images"


def run(monkeypatch, folder, *words):
    monkeypatch.setattr(
        "sys.argv", ["moppa data split", str(folder), "own", "--configs", str(folder.parent / "configs"), *words]
    )
    return data_split.main()


def test_every_image_is_in_one_split_and_every_class_in_each(folder):
    images = find_images(folder, None)
    assert len(images) == 23
    splits = split_images(images, val=0.2, test=7, seed=0)
    assert {name: len(of_split) for name, of_split in splits.items()} == {"train": 11, "val": 5, "test": 7}
    assert Counter(image for of_split in splits.values() for image in of_split) == Counter(images)
    assert all({image.label for image in of_split} == {"disc", "ring"} for of_split in splits.values())
    assert split_images(images, val=0.2, test=7, seed=0) == splits != split_images(images, val=0.2, test=7, seed=1)


def test_folds_test_every_image_once(folder):
    images = find_images(folder, None)
    folds = fold_images(images, folds=4, seed=0)
    assert Counter(image for splits in folds for image in splits["test"]) == Counter(images)
    for splits in folds:
        assert Counter(image for of_split in splits.values() for image in of_split) == Counter(images)


def test_the_task_and_its_images_are_written(folder, monkeypatch):
    assert run(monkeypatch, folder, "--val", "3", "--test", "0.25") == 0
    with (folder / "own.csv").open(newline="") as file:
        counts = Counter(row["split"] for row in csv.DictReader(file))
    task = OmegaConf.load(folder.parent / "configs" / "task" / "own" / "own.yaml")
    assert counts == {"train": task.num_train, "val": task.num_val, "test": task.num_test} == {
        "train": 14, "val": 3, "test": 6
    }  # fmt: skip
    assert task.num_classes == 2
    assert OmegaConf.load(folder.parent / "configs" / "data" / "own.yaml").table == "own.csv"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--val", "20", "--test", "10"], "val=20 and test=10 leave none of 23 images to train on"),
        (["--val", "1.5"], "val=1.5: it must be a number of images"),
        (["--folds", "2"], "folds=2: it must be from 3 to the number of images, 23"),
        (["--table", "none.csv"], "none.csv cannot be read"),
    ],
)
def test_wrong_numbers_are_one_line_and_nothing_is_written(words, message, folder, monkeypatch, capsys):
    assert run(monkeypatch, folder, *words) == 1
    error = capsys.readouterr().err
    assert (message in error, error.count("\n")) == (True, 1)
    assert not (folder.parent / "configs").exists()


def test_one_picture_in_two_classes_is_an_error(folder):
    (folder / "ring" / "disc.png").write_bytes((folder / "disc" / "1.png").read_bytes())
    with pytest.raises(UserError, match=r"ring/disc\.png is the same file as disc/1\.png, with another class"):
        find_images(folder, None)


def test_a_table_names_paths_and_classes(folder):
    (folder / "list.csv").write_text("label,path\nround,disc/1.png\nhollow,ring/1.png\nround,disc/2.png\n")
    images = find_images(folder, folder / "list.csv")
    assert [(image.path, image.label) for image in images] == [
        ("disc/1.png", "round"), ("ring/1.png", "hollow"), ("disc/2.png", "round")
    ]  # fmt: skip
    with pytest.raises(SettingError, match="test=0: it must be a number"):
        split_images(images, val=1, test=0, seed=0)
