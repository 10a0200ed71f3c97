"""The nineteen tasks through TFDS's own mock of their builders: features, labels, names, split sizes."""

import io
from contextlib import contextmanager

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.testing.mocking import RandomFakeGenerator

from moppa.data import cache, images
from moppa.utils.config import instantiate
from tests.conftest import config_of
from tests.test_configs import TASKS

LOOK = {"size": 16, "interpolation": "bicubic"}
NUM_MOCKED = 12
GREY = ("dsprites_loc", "dsprites_ori", "smallnorb_azi", "smallnorb_ele")
PARTS = ("train800", "val200", "test")

# What the builders' catalog pages say their splits hold; checked against the builder where its metadata are at hand.
SPLIT_SIZES = {
    "cifar100": {"train": 50_000, "test": 10_000},
    "caltech101": {"train": 3_060, "test": 6_084},
    "dtd": {"train": 1_880, "validation": 1_880, "test": 1_880},
    "oxford_flowers102": {"train": 1_020, "validation": 1_020, "test": 6_149},
    "oxford_iiit_pet": {"train": 3_680, "test": 3_669},
    "svhn_cropped": {"train": 73_257, "test": 26_032},
    "sun397/tfds": {"train": 76_128, "validation": 10_875, "test": 21_750},
    "patch_camelyon": {"train": 262_144, "validation": 32_768, "test": 32_768},
    "eurosat/rgb": {"train": 27_000},
    "resisc45": {"train": 31_500},
    "diabetic_retinopathy_detection/btgraham-300": {"train": 35_126, "validation": 10_906, "test": 42_670},
    "clevr": {"train": 70_000, "validation": 15_000, "test": 15_000},
    "dmlab": {"train": 65_550, "validation": 22_628, "test": 22_735},
    "kitti": {"train": 6_347, "validation": 423, "test": 711},
    "dsprites": {"train": 737_280},
    "smallnorb": {"train": 24_300, "test": 24_300},
}


def axes(name, *more):
    config = config_of(f"task={name}", *more)
    return instantiate(config, "task"), instantiate(config, "data")


@contextmanager
def mocked(folder, monkeypatch):
    """Every builder as if it were prepared in `folder`, giving NUM_MOCKED random records of its own features.

    TFDS encodes the records of its mock with TensorFlow, which need not be here: so they are encoded below.
    """

    def as_data_source(builder, split, decoders):
        assert set(decoders) == {"image"}  # skipped, so that the store decodes it, once
        features = builder.info.features
        records = RandomFakeGenerator(features, NUM_MOCKED, constant_dynamic_shape=True)
        return [as_stored(records[index], 3 + index % 8) for index in range(NUM_MOCKED)]

    monkeypatch.setattr(tfds.core.DatasetBuilder, "is_prepared", lambda builder: True)
    with tfds.testing.mock_data(as_data_source_fn=as_data_source, data_dir=str(folder)):
        yield


def as_stored(record, num_objects):
    """A random record as the data set would store it: PNG, bytes, objects of one number, a plausible depth."""
    binary = "value_x_position" in record  # dSprites holds 0 and 1
    encoded = io.BytesIO()
    Image.fromarray((record["image"] % 2 if binary else record["image"]).squeeze()).save(encoded, "PNG")
    stored = {name: value.encode() if isinstance(value, str) else value for name, value in record.items()}
    stored["image"] = encoded.getvalue()
    if "objects" in record:
        stored["objects"] = {name: values[:num_objects] for name, values in record["objects"].items()}
        for name, deepest in {"pixel_coords": 30, "location": 60}.items():
            if name in stored["objects"]:
                stored["objects"][name] = stored["objects"][name] * deepest
    return stored


@pytest.fixture(params=TASKS)
def examples(request, tmp_path, monkeypatch):
    task, source = axes(request.param, f"data.dir={tmp_path}")
    with mocked(tmp_path, monkeypatch):
        return task, list(source.examples(task, "val200"))


def test_a_mocked_example_has_the_image_the_label_and_the_name_that_the_task_describes(examples):
    task, found = examples
    assert len(found) == NUM_MOCKED
    for example in found:
        assert isinstance(example.image, bytes)  # as it lies on disk: decoded once, by the store
        assert not example.is_scaled
        assert isinstance(example.label, int)
        assert 0 <= example.label < task.num_classes
        assert (example.name is None) == (task.name_key is None)
        with Image.open(io.BytesIO(example.image)) as picture:
            assert picture.mode == ("L" if task.name in GREY else "RGB")


def test_a_mocked_image_becomes_a_square_rgb_of_bytes_scaled_as_the_task_says(examples):
    task, found = examples
    for example in found[:3]:
        pixels = images.resize(example.image, **LOOK, pixel_scale=task.pixel_scale)
        assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)
        decoded = np.asarray(Image.open(io.BytesIO(example.image)), dtype=int)
        scaled = np.minimum(255, decoded * (255 if task.builder.startswith("dsprites") else 1)).astype(np.uint8)
        rgb = np.repeat(scaled[..., None], 3, axis=2) if task.name in GREY else scaled
        expected = Image.fromarray(rgb).resize((16, 16), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(pixels, np.asarray(expected))


@pytest.mark.parametrize("name", TASKS)
def test_the_builder_has_as_many_classes_as_the_task_where_it_knows_them(name):
    task, _ = axes(name)
    rule = task.label
    if rule.func.__name__ != "field":
        assert set(rule.keywords) <= {"key"}
        return  # the classes are computed; tests/data/test_task.py holds them at their edges
    feature = tfds.builder(task.builder).info.features[rule.keywords["key"]]
    assert feature.num_classes == task.num_classes


@pytest.mark.parametrize("name", TASKS)
def test_the_splits_of_the_real_sizes_are_800_200_and_the_test_set_and_share_no_image(name):
    task, _ = axes(name)
    sizes = SPLIT_SIZES[task.builder.partition(":")[0]]
    taken = {part: indices_of(task.splits[part], sizes) for part in PARTS}
    assert {part: len(indices) for part, indices in taken.items()} == {part: task.size_of(part) for part in PARTS}
    assert len(set().union(*taken.values())) == 800 + 200 + task.num_test


def indices_of(split, sizes):
    """The examples that TFDS itself takes for a split, as (name of the split, index)."""
    infos = {name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0) for name, size in sizes.items()}
    asked = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    return {
        (one.splitname, index)
        for one in asked
        for index in range(one.from_ or 0, sizes[one.splitname] if one.to is None else one.to)
    }


def test_the_sizes_are_the_builders_own_where_its_metadata_are_at_hand(shared):
    task, _ = axes("eurosat")
    builder = tfds.builder(task.builder, data_dir=shared / "tfds")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == SPLIT_SIZES["eurosat/rgb"]
    for part in PARTS:
        assert builder.info.splits[task.splits[part]].num_examples == task.size_of(part)


def test_dsprites_and_smallnorb_go_through_the_store(tmp_path, monkeypatch):
    for name in GREY:
        task, source = axes(name, f"data.dir={tmp_path}", f"data.cache={tmp_path / 'store'}")
        monkeypatch.setattr(type(task), "size_of", lambda self, part: NUM_MOCKED)
        with mocked(tmp_path, monkeypatch):
            split = cache.load_split(task, "val200", source, **LOOK)
        assert split.images.shape == (NUM_MOCKED, 16, 16, 3)
        for channel in (1, 2):
            np.testing.assert_array_equal(split.images[..., channel], split.images[..., 0])
        assert split.images.mean() > 50  # dSprites unscaled would hold 0 and 1
