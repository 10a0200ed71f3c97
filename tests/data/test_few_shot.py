"""Few-shot draws: k images of each class from a seed, which nest and depend on nothing but the images."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from moppa.data.few_shot import draw_images
from moppa.data.folder import FolderSource
from moppa.data.images import ImageFormat
from moppa.data.task import Protocol
from moppa.data.task_data import TaskData
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from tests.conftest import config_of

LABELS = np.arange(60) % 3
NAMES = [f"{index}.png" for index in range(60)]
SPLITS = {"train800": "a", "val200": "b", "test": "c"}
OWN = {"name": "own", "suite": "own", "splits": SPLITS, "num_classes": 3, "num_train": 24, "num_val": 6, "num_test": 6}


def drawn(shots, *, seed=0, names=NAMES, labels=LABELS):
    indices = draw_images(names, labels, shots=shots, seed=seed, num_classes=3, name="train")
    return [names[index] for index in indices]


def test_draws_of_a_seed_nest_and_have_as_many_images_of_each_class():
    for smaller, larger in [(1, 2), (2, 4), (4, 8), (8, 16), (16, 20)]:
        assert set(drawn(smaller)) < set(drawn(larger))
        assert np.bincount([LABELS[NAMES.index(name)] for name in drawn(larger)]).tolist() == [larger] * 3


def test_the_order_of_the_images_and_other_classes_have_no_influence_on_a_draw():
    shuffled = np.random.default_rng(0).permutation(60)
    assert set(drawn(4)) == set(drawn(4, names=[NAMES[index] for index in shuffled], labels=LABELS[shuffled]))
    more = drawn(4, names=[*NAMES, "new.png"], labels=np.append(LABELS, 2))
    assert set(drawn(4)) - set(more) <= {name for name in NAMES if LABELS[NAMES.index(name)] == 2}


def test_seeds_draw_different_images():
    draws = {tuple(drawn(2, seed=seed)) for seed in range(20)}
    assert len(draws) == 20
    assert len({name for draw in draws for name in draw}) > 40  # of 60: no image is preferred


def test_a_class_with_fewer_images_is_an_error():
    with pytest.raises(UserError, match=r"protocol\.shots=21: class 0 has only 20 images in train"):
        drawn(21)


@pytest.fixture
def own(tmp_path):
    """A function that returns the training split of a task of 36 images in a CSV: image n of class n % 3."""
    rows = [("path", "label", "split")]
    for index, split in enumerate("a" * 24 + "b" * 6 + "c" * 6):
        rows.append((f"{index}.png", "xyz"[index % 3], split))
        Image.fromarray(np.full((4, 4, 3), index, np.uint8)).save(tmp_path / f"{index}.png")
    with (tmp_path / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    task = replace(instantiate(config_of("task=svhn"), "task"), **OWN)
    source = FolderSource(
        name="folder", dir=str(tmp_path), cache=str(tmp_path / "cache"), table="images.csv", classes=None
    )

    def load(shots, *, name="few_shot", size=4, seed=0, draw=None):
        evaluate, name = ("val200", name) if name == "tune" else ("test", f"{name}_{shots}")
        protocol = Protocol(name=name, train="train800", evaluate=evaluate, shots=shots, draw=draw)
        return TaskData(task, source, protocol, ImageFormat(size, "bicubic"), seed).load("train800")

    return load


def values_of(split):
    """Returns the number of each image of a split."""
    return split.images[:, 0, 0, 0].tolist()


def test_ones_own_images_are_drawn_the_same_at_every_size_and_from_any_order(own, tmp_path):
    two = own(2)
    values = set(values_of(two))
    assert len(values) == 6
    assert np.bincount(two.labels).tolist() == [2, 2, 2]
    assert [value % 3 for value in values_of(two)] == two.labels.tolist()
    assert set(values_of(own(2, size=8))) == values
    header, *rows = (tmp_path / "images.csv").read_text().splitlines()
    (tmp_path / "images.csv").write_text("\n".join([header, *reversed(rows)]))
    assert set(values_of(own(2))) == values
    four = own(4)
    assert values < set(values_of(four))
    assert four.digest != two.digest


def test_the_seed_of_the_cell_draws_unless_the_protocol_has_a_draw(own):
    assert values_of(own(2)) != values_of(own(2, seed=1)) == values_of(own(2, draw=1))
    assert values_of(own(2, name="tune", seed=1)) == values_of(own(2, seed=1))
    assert len(own(None, name="tune").labels) == 24
    with pytest.raises(UserError, match=r"protocol\.shots=16: class 0 has only 8 images in train800 of task own \(a\)"):
        own(16)
