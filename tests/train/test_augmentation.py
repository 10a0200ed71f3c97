"""Augmentation of training images: timm's, decided by seed, step and image, and nothing else of a cell changes."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from moppa.backbone.preprocess import Preprocess
from moppa.train.augmentation import Augmenter, parse_augmentation, seeded_generators, worker_count
from moppa.train.images import AugmentedImages
from moppa.utils.errors import SettingError
from moppa.utils.seeds import derive_seed
from tests.conftest import CONFIGS, config_of
from tests.train.test_loop import TRAIN_SPLIT, CallsAtStep, crash, run

pytestmark = pytest.mark.usefixtures("unchecked")  # type checks draw from Python's generator, as timm does
NAMES = sorted(path.stem for path in (CONFIGS / "augmentation").glob("*.yaml"))
NO_CHANGE = {"scale": [1, 1], "ratio": [1, 1], "hflip": 0}
PREPROCESS = Preprocess(size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), interpolation="bicubic", pool="token")


def settings_of(name, **changes):
    config = config_of("task=eurosat", f"+augmentation={name}")
    return {**config.train.augmentation, **changes}


def augmenter(name, *, seed=0, num_workers=0, **changes):
    return Augmenter(parse_augmentation(settings_of(name, **changes)), PREPROCESS, seed=seed, num_workers=num_workers)


def training_augmenter(name, **changes):
    """Returns what makes the augmenter of a training from the preprocessing of its backbone and its seed."""
    augmentation = parse_augmentation(settings_of(name, **changes))
    return lambda preprocess, seed: Augmenter(augmentation, replace(preprocess, size=32), seed=seed, num_workers=0)


def augmented(augment, step=3, index=5):
    return augment(TRAIN_SPLIT.images[index], step=step, index=index)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_that_of_timms_training_transform(name):
    settings = settings_of(name, re_prob=1.0)
    names = ("scale", "ratio", "hflip", "color_jitter", "auto_augment", "interpolation", "re_prob", "re_mode")
    expected = create_transform(
        PREPROCESS.size,
        is_training=True,
        mean=PREPROCESS.mean,
        std=PREPROCESS.std,
        **{key: settings[key] for key in names},
    )
    with seeded_generators(derive_seed(0, "augment", 3, 5)):
        theirs = expected(Image.fromarray(TRAIN_SPLIT.images[5]))
    torch.testing.assert_close(augmented(augmenter(name, re_prob=1.0)), theirs)


@pytest.mark.parametrize("name", NAMES)
def test_seed_step_and_image_decide_what_is_drawn(name):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = augmented(augmenter(name))
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert torch.equal(first, augmented(augmenter(name)))
    for other in (augmented(augmenter(name, seed=1)), augmented(augmenter(name), step=4)):
        assert not torch.equal(first, other)
    whole = augmenter("crop_flip", **NO_CHANGE)
    stock = PREPROCESS.normalize(torch.from_numpy(TRAIN_SPLIT.images[5:6]))[0]
    assert torch.equal(augmented(whole), stock)


@pytest.mark.slow
def test_worker_processes_change_no_image():
    batches = [(4, torch.tensor([7, 1, 3])), (5, torch.tensor([2, 0]))]
    results = []
    for num_workers in (0, 2):
        augment = augmenter("randaugment", num_workers=num_workers)
        images = AugmentedImages(TRAIN_SPLIT, augment, torch.device("cpu"), batch_size=3)
        results.append([(step, *map(torch.clone, images.read(at))) for step, at in images.selected(iter(batches))])
    assert [len(labels) for _, _, labels in results[0]] == [3, 2]
    assert results[0][1][2].tolist() == [2, 0]
    for (step, inputs, labels), (other_step, other_inputs, other_labels) in zip(*results, strict=True):
        assert step == other_step
        assert torch.equal(inputs, other_inputs)
        assert torch.equal(labels, other_labels)
    assert torch.equal(results[0][1][1][0], augmented(augmenter("randaugment"), step=5, index=2))


def test_a_training_with_augmentation_resumes_bit_for_bit(tmp_path):
    augment = training_augmenter("randaugment")
    whole = run(tmp_path / "a", augment=augment)
    with pytest.raises(ConnectionError):
        run(tmp_path / "b", logger=CallsAtStep(crash, 9), augment=augment)
    assert (tmp_path / "b" / "c.pt").exists()
    assert run(tmp_path / "b", augment=augment) == whole


def test_a_training_whose_augmentation_changes_nothing_is_that_without(tmp_path):
    whole = run(tmp_path / "a")
    assert run(tmp_path / "b", augment=training_augmenter("crop_flip", **NO_CHANGE)) == whole
    assert run(tmp_path / "c", augment=training_augmenter("crop_flip")) != whole


def test_the_number_of_worker_processes():
    assert worker_count("auto", "cpu") == 0
    assert 1 <= worker_count("auto", "cuda") <= 8
    assert worker_count(3, "cpu") == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_augment": "rand-m9-inc"}, "auto_augment='rand-m9-inc'"),
        ({"auto_augment": "rand-mfast"}, "timm's notation"),
        ({"auto_augment": "random-m9"}, "timm's notation"),
        ({"auto_augment": "original-m3"}, "timm's notation"),
        ({"auto_augment": "rand-n0"}, "timm's notation"),
        ({"auto_augment": 9}, "timm's notation"),
        ({"auto_augment": "v0", "color_jitter": 0.4}, "set it to null"),
        ({"scale": [1.0, 0.5]}, r"scale=\[1.0, 0.5\]"),
        ({"scale": 0.5}, "scale=0.5"),
        ({"ratio": [0, 1]}, "above 0"),
        ({"hflip": 2}, "at most 1"),
        ({"re_mode": "noise"}, "const, rand, pixel"),
        ({"interpolation": "nearest"}, "random, bilinear, bicubic"),
        ({"mixup": 0.8}, "mixup does not exist"),
    ],
)
def test_a_bad_setting_is_one_line(changes, message):
    with pytest.raises(SettingError, match=message):
        parse_augmentation(settings_of("crop_flip", **changes))


@pytest.mark.parametrize(
    "text", ["rand-m9-mstd0.5-inc1", "rand-n3-p0.5-tweights", "augmix-m5-w4-d2", "original-mstd0.5", "3a"]
)
def test_timms_notation_is_accepted(text):
    augmented(augmenter("crop_flip", auto_augment=text))
