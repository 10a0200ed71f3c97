"""Tasks, splits and labels: what a source provides is what the task defines, or it is refused."""

import hashlib
import io
import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from moppa.data import cache, labels
from moppa.data.check import split_check
from moppa.data.images import ImageFormat, resize
from moppa.data.prepare import ensure_prepared
from moppa.data.split import split_folder
from moppa.data.task import SPLITS, check_split, split_fingerprint
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from tests.conftest import config_of

IMAGE_FORMAT = ImageFormat(16, "bicubic")


def check_of(task, source):
    return split_check(task, source, cache.prepare_splits(task, SPLITS, source, IMAGE_FORMAT))


def load_train800(task, source):
    return cache.load_split(task, "train800", source, IMAGE_FORMAT)


def task_and_source(toy, *overrides):
    config = config_of(*toy, *overrides)
    return instantiate(config, "task"), instantiate(config, "data")


@pytest.fixture(scope="session")
def eurosat(shared, tmp_path_factory):
    config = config_of("task=eurosat", f"data.dir={shared / 'tfds'}", f"data.cache={tmp_path_factory.mktemp('cache')}")
    return instantiate(config, "task"), instantiate(config, "data")


def test_a_split_is_prepared_once_and_then_read_from_the_cache(toy):
    task, source = task_and_source(toy)
    first = cache.load_split(task, "val200", source, IMAGE_FORMAT)
    assert first.images.shape == (200, 16, 16, 3)
    assert first.images.dtype == np.uint8
    assert isinstance(first.images, np.memmap)
    unread = instantiate(config_of(*toy, "+data.surplus=5"), "data")  # would fail if it was read
    again = cache.load_split(task, "val200", unread, IMAGE_FORMAT)
    np.testing.assert_array_equal(again.images, first.images)


def test_train800val200_is_train800_then_val200(toy):
    task, source = task_and_source(toy)
    joined = cache.load_split(task, "train800val200", source, IMAGE_FORMAT)
    splits = [cache.load_split(task, split, source, IMAGE_FORMAT) for split in ("train800", "val200")]
    np.testing.assert_array_equal(joined.images, np.concatenate([split.images for split in splits]))
    np.testing.assert_array_equal(joined.labels, np.concatenate([split.labels for split in splits]))


def test_each_definition_size_and_interpolation_has_its_own_folder(toy):
    task, source = task_and_source(toy)
    other, _ = task_and_source(toy, "task.splits.test=elsewhere")
    folders = {
        split_folder(task, "test", source, ImageFormat(16, "bicubic")),
        split_folder(task, "test", source, ImageFormat(32, "bicubic")),
        split_folder(task, "test", source, ImageFormat(16, "bilinear")),
        split_folder(other, "test", source, ImageFormat(16, "bicubic")),
    }
    assert len(folders) == 4


def test_pixels_are_those_of_pillows_resize():
    random = np.random.default_rng(0)
    wide = random.integers(0, 256, (20, 31, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(wide).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize(wide, IMAGE_FORMAT, pixel_scale=1), expected)
    encoded = io.BytesIO()
    Image.fromarray(wide).save(encoded, "PNG")
    np.testing.assert_array_equal(resize(encoded.getvalue(), IMAGE_FORMAT, pixel_scale=1), expected)


def test_a_gray_image_becomes_rgb_and_a_binary_image_is_scaled():
    binary = np.eye(16, dtype=np.uint8)[..., None]
    rgb = resize(binary, IMAGE_FORMAT, pixel_scale=255)
    np.testing.assert_array_equal(rgb, np.repeat(255 * binary, 3, axis=2))


def test_a_label_outside_of_the_classes_is_refused(toy):
    task, source = task_and_source(toy, "+data.label_shift=1")
    with pytest.raises(UserError, match=r"label 10.*num_classes=10"):
        cache.load_split(task, "val200", source, IMAGE_FORMAT)


def test_a_split_with_too_many_images_is_refused_and_leaves_no_files(toy):
    task, source = task_and_source(toy, "+data.surplus=1")
    with pytest.raises(UserError, match="more than 200"):
        cache.load_split(task, "val200", source, IMAGE_FORMAT)
    folder = split_folder(task, "val200", source, IMAGE_FORMAT)
    assert list(folder.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "decoded.npy", "names.json"])
def test_changed_files_in_the_cache_are_not_used(toy, name):
    task, source = task_and_source(toy)
    check_of(task, source)
    cache.load_split(task, "train800", source, IMAGE_FORMAT)
    file = split_folder(task, "train800", source, IMAGE_FORMAT) / name
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    read = check_of if name in ("names.json", "decoded.npy") else load_train800
    with pytest.raises(UserError, match="delete that folder"):
        read(task, source)


def test_the_split_check_needs_every_name_and_the_order_of_val200():
    task = instantiate(config_of("task=dtd"), "task")
    train, val = [f"t{i}" for i in range(800)], [f"v{i}" for i in range(200)]
    task = replace(task, fingerprint=split_fingerprint(train, val))
    assert check_split(task, train, val) == "official"
    assert check_split(task, train[::-1], val) == "official"  # the order of train800 does not count
    for wrong in ([*train[:-1], "x"], val), (train, val[::-1]), (train[:-1], val):
        with pytest.raises(UserError, match="not the official split"):
            check_split(task, *wrong)
    assert check_split(task, None, val) == "no names"
    assert check_split(instantiate(config_of("task=dsprites_loc"), "task"), train, val) == "no names"


def test_real_eurosat_is_official_and_no_image_is_in_two_splits(eurosat):
    task, source = eurosat
    check = check_of(task, source)
    assert (check["verdict"], check["test"], check["origin"]) == ("official", "official", "eurosat/rgb/2.0.0")
    assert set(check["shared_images"].values()) == {0}
    names = [name for split in SPLITS for name in names_of(task, source, split)]
    assert len(names) == 800 + 200 + 5400
    assert len(set(names)) == len(names)


def test_real_eurosat_pixels_and_labels_are_those_of_the_data_set(eurosat):
    task, source = eurosat
    split = cache.load_split(task, "val200", source, IMAGE_FORMAT)
    examples = list(source.examples(task, "val200"))
    for index in (0, 57, 199):
        expected = (
            Image.open(io.BytesIO(examples[index].image)).convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)
        )
        np.testing.assert_array_equal(split.images[index], np.asarray(expected))
        assert split.labels[index] == examples[index].label
    names = "\n".join(example.name for example in examples)
    assert hashlib.sha256(names.encode()).hexdigest() == task.fingerprint["val200_in_order"]
    assert set(split.labels.tolist()) == set(range(10))


def names_of(task, source, split):
    return json.loads((ensure_prepared(task, split, source, IMAGE_FORMAT) / "names.json").read_text())


def test_a_truncated_or_empty_data_set_is_reported_and_not_cached(eurosat, tmp_path):
    task, source = eurosat
    version = tmp_path / "tfds" / "eurosat" / "rgb" / "2.0.0"
    shutil.copytree(f"{source.dir}/eurosat/rgb/2.0.0", version)
    damaged = replace(source, dir=str(tmp_path / "tfds"), cache=str(tmp_path / "cache"))
    [file] = version.glob("*.array_record-*")
    intact = file.read_bytes()
    for content in intact[: len(intact) // 2], intact[:1000], b"":
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"truncated|prepare it again"):
            cache.load_split(task, "val200", damaged, IMAGE_FORMAT)
        assert not list((tmp_path / "cache").rglob("*.npy"))


def objects(**lists):
    return {"objects": lists}


@pytest.mark.parametrize(
    ("label", "example", "expected"),
    [
        (labels.clevr_count, objects(pixel_coords=[(0, 0, 9.0)] * 3), 0),
        (labels.clevr_count, objects(pixel_coords=[(0, 0, 9.0)] * 4), 1),
        (labels.clevr_count, objects(pixel_coords=[(0, 0, 9.0)] * 10), 7),
        (labels.clevr_distance, objects(pixel_coords=[(0, 0, 7.0), (0, 0, 12.0)]), 0),
        (labels.clevr_distance, objects(pixel_coords=[(0, 0, 8.0)]), 0),
        (labels.clevr_distance, objects(pixel_coords=[(0, 0, 8.01), (1, 1, 8.6)]), 1),
        (labels.clevr_distance, objects(pixel_coords=[(0, 0, 8.5)]), 1),
        (labels.clevr_distance, objects(pixel_coords=[(0, 0, 8.51)]), 2),
        (labels.clevr_distance, objects(pixel_coords=[(0, 0, 9.0)]), 2),
        (labels.clevr_distance, objects(pixel_coords=[(0, 0, 9.5)]), 3),
        (labels.clevr_distance, objects(pixel_coords=[(0, 0, 9.51)]), 4),
        (labels.clevr_distance, objects(pixel_coords=np.float32([(0, 0, 8.5), (0, 0, 9.5)])), 1),
        (labels.clevr_distance, objects(pixel_coords=[(0, 0, 10.0)]), 4),
        (labels.clevr_distance, objects(pixel_coords=[(0, 0, 10.1)]), 5),
        (labels.kitti_distance, objects(type=[0, 1], location=[(0, 0, 8.0), (0, 0, 30.0)]), 0),
        (labels.kitti_distance, objects(type=[2], location=[(0, 0, 8.1)]), 1),
        (labels.kitti_distance, objects(type=[0], location=[(0, 0, 20.0)]), 1),
        (labels.kitti_distance, objects(type=[1], location=[(0, 0, -1.5)]), 0),
        (labels.kitti_distance, objects(type=np.array([2, 0]), location=np.float32([(0, 0, 20.0), (0, 0, 60.0)])), 1),
        (labels.kitti_distance, objects(type=[0], location=[(0, 0, 999.0)]), 2),
        (labels.kitti_distance, objects(type=[3, 0], location=[(0, 0, 2.0), (0, 0, 20.5)]), 2),
        (labels.kitti_distance, objects(type=[3], location=[(0, 0, 2.0)]), 3),
        (labels.kitti_distance, objects(type=[], location=[]), 3),
        (labels.dsprites_location, {"label_x_position": 0}, 0),
        (labels.dsprites_location, {"label_x_position": 1}, 0),
        (labels.dsprites_location, {"label_x_position": 2}, 1),
        (labels.dsprites_location, {"label_x_position": 31}, 15),
        (labels.dsprites_orientation, {"label_orientation": 2}, 0),
        (labels.dsprites_orientation, {"label_orientation": 3}, 1),
        (labels.dsprites_orientation, {"label_orientation": 5}, 2),
        (labels.dsprites_orientation, {"label_orientation": 37}, 14),
        (labels.dsprites_orientation, {"label_orientation": 38}, 15),
        (labels.dsprites_orientation, {"label_orientation": 39}, 15),
        (partial(labels.field, key="label_azimuth"), {"label_azimuth": np.int64(0), "label_elevation": 8}, 0),
        (partial(labels.field, key="label_azimuth"), {"label_azimuth": np.int64(17), "label_elevation": 0}, 17),
        (partial(labels.field, key="label_elevation"), {"label_azimuth": 17, "label_elevation": np.int64(8)}, 8),
    ],
)
def test_labels_at_the_edges_of_their_bins(label, example, expected):
    assert label(example) == expected
