"""The nineteen tasks with mocked TFDS builders: features, labels, names and split sizes."""

import io
from contextlib import contextmanager

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.testing.mocking import RandomFakeGenerator

from moppa.data import cache
from moppa.data.images import ImageFormat, resize
from moppa.data.task import SPLITS
from moppa.utils.config import instantiate
from tests.conftest import config_of
from tests.test_configs import TASKS

IMAGE_FORMAT = ImageFormat(16, "bicubic")
NUM_MOCKED = 12
GRAY = ("dsprites_loc", "dsprites_ori", "smallnorb_azi", "smallnorb_ele")

# From the catalog pages of the builders; compared with the builder itself if its metadata is available.
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


def task_and_source(name, *overrides):
    config = config_of(f"task={name}", *overrides)
    return instantiate(config, "task"), instantiate(config, "data")


@contextmanager
def mocked(folder, monkeypatch):
    """Makes every builder seem prepared in `folder`, with NUM_MOCKED random records of its own features.

    The mock of TFDS encodes its records with TensorFlow, which need not be installed, so `encode` does it here.
    """

    def as_data_source(builder, split, decoders):
        assert set(decoders) == {"image"}  # skipped, because the cache decodes the image
        features = builder.info.features
        records = RandomFakeGenerator(features, NUM_MOCKED, constant_dynamic_shape=True)
        return [encode(records[index], num_objects=3 + index % 8) for index in range(NUM_MOCKED)]

    monkeypatch.setattr(tfds.core.DatasetBuilder, "is_prepared", lambda builder: True)
    with tfds.testing.mock_data(as_data_source_fn=as_data_source, data_dir=str(folder)):
        yield


def encode(record, *, num_objects):
    """Returns a random record as the data set would store it: PNG, bytes, `num_objects` objects, plausible depths."""
    is_binary = "value_x_position" in record  # dSprites
    encoded = io.BytesIO()
    Image.fromarray((record["image"] % 2 if is_binary else record["image"]).squeeze()).save(encoded, "PNG")
    stored = {name: value.encode() if isinstance(value, str) else value for name, value in record.items()}
    stored["image"] = encoded.getvalue()
    if "objects" in record:
        stored["objects"] = {name: values[:num_objects] for name, values in record["objects"].items()}
        for name, max_depth in {"pixel_coords": 30, "location": 60}.items():
            if name in stored["objects"]:
                stored["objects"][name] = stored["objects"][name] * max_depth
    return stored


@pytest.fixture(params=TASKS)
def task_and_examples(request, tmp_path, monkeypatch):
    task, source = task_and_source(request.param, f"data.dir={tmp_path}")
    with mocked(tmp_path, monkeypatch):
        return task, list(source.examples(task, "val200"))


def test_examples_have_the_encoded_image_the_label_and_the_name_of_the_task(task_and_examples):
    task, examples = task_and_examples
    assert len(examples) == NUM_MOCKED
    for example in examples:
        assert isinstance(example.image, bytes)  # not decoded yet
        assert not example.is_scaled
        assert isinstance(example.label, int)
        assert 0 <= example.label < task.num_classes
        assert (example.name is None) == (task.name_key is None)
        with Image.open(io.BytesIO(example.image)) as picture:
            assert picture.mode == ("L" if task.name in GRAY else "RGB")


def test_images_become_square_rgb_scaled_by_the_pixel_scale_of_the_task(task_and_examples):
    task, examples = task_and_examples
    for example in examples[:3]:
        pixels = resize(example.image, IMAGE_FORMAT, pixel_scale=task.pixel_scale)
        assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)
        decoded = np.asarray(Image.open(io.BytesIO(example.image)), dtype=int)
        scaled = np.minimum(255, decoded * (255 if task.builder.startswith("dsprites") else 1)).astype(np.uint8)
        rgb = np.repeat(scaled[..., None], 3, axis=2) if task.name in GRAY else scaled
        expected = Image.fromarray(rgb).resize((16, 16), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(pixels, np.asarray(expected))


@pytest.mark.parametrize("name", TASKS)
def test_the_builder_has_as_many_classes_as_the_task(name):
    task, _ = task_and_source(name)
    label = task.label
    if label.func.__name__ != "field":
        assert set(label.keywords) <= {"key"}
        return  # the classes are computed; tests/data/test_task.py tests the edges of their bins
    feature = tfds.builder(task.builder).info.features[label.keywords["key"]]
    assert feature.num_classes == task.num_classes


@pytest.mark.parametrize("name", TASKS)
def test_the_splits_have_800_200_and_num_test_images_and_share_none(name):
    task, _ = task_and_source(name)
    sizes = SPLIT_SIZES[task.builder.partition(":")[0]]
    indices = {split: indices_of(task.splits[split], sizes) for split in SPLITS}
    assert {split: len(indices[split]) for split in SPLITS} == {split: task.num_images(split) for split in SPLITS}
    assert len(set().union(*indices.values())) == 800 + 200 + task.num_test


def indices_of(split, sizes):
    """Returns the examples that TFDS selects for a split, as (name of the TFDS split, index)."""
    infos = {name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0) for name, size in sizes.items()}
    instructions = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    return {
        (part.splitname, index)
        for part in instructions
        for index in range(part.from_ or 0, sizes[part.splitname] if part.to is None else part.to)
    }


def test_the_split_sizes_are_those_of_the_builder(shared):
    task, _ = task_and_source("eurosat")
    builder = tfds.builder(task.builder, data_dir=shared / "tfds")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == SPLIT_SIZES["eurosat/rgb"]
    for split in SPLITS:
        assert builder.info.splits[task.splits[split]].num_examples == task.num_images(split)


def test_dsprites_and_smallnorb_are_cached_as_gray_rgb(tmp_path, monkeypatch):
    for name in GRAY:
        task, source = task_and_source(name, f"data.dir={tmp_path}", f"data.cache={tmp_path / 'cache'}")
        monkeypatch.setattr(type(task), "num_images", lambda self, split: NUM_MOCKED)
        with mocked(tmp_path, monkeypatch):
            split = cache.load_split(task, "val200", source, IMAGE_FORMAT)
        assert split.images.shape == (NUM_MOCKED, 16, 16, 3)
        for channel in (1, 2):
            np.testing.assert_array_equal(split.images[..., channel], split.images[..., 0])
        assert split.images.mean() > 50  # dSprites would hold 0 and 1 if it was not scaled
