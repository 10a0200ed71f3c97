"""The cache: complete or absent, separate by version, resumed after a kill, shared by two runs, checked when read."""

import hashlib
import io
import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moppa.data import cache, disk_space, download, inventory, split, write_split
from moppa.data.check import split_check
from moppa.data.images import BLOCK_BYTES, ImageFormat, hash_images
from moppa.data.prepare import ensure_prepared
from moppa.data.split import split_folder
from moppa.data.task import SPLITS, Protocol, split_fingerprint
from moppa.data.task_data import TaskData
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS, ROOT, config_of
from tests.python_process import PythonProcess

IMAGE_FORMAT = ImageFormat(16, "bicubic")
LARGER = ImageFormat(64, "bicubic")


@pytest.fixture
def task_and_source(toy):
    config = config_of(*toy)
    return instantiate(config, "task"), instantiate(config, "data")


@pytest.fixture(scope="module")
def eurosat(shared, tmp_path_factory):
    config = config_of("task=eurosat", f"data.dir={shared / 'tfds'}", f"data.cache={tmp_path_factory.mktemp('cache')}")
    return instantiate(config, "task"), instantiate(config, "data")


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def rewrite(folder, **entries):
    (folder / "manifest.json").write_text(json.dumps({**manifest_of(folder), **entries}))


def check_of(task, source, splits=SPLITS):
    return split_check(task, source, cache.prepare_splits(task, splits, source, IMAGE_FORMAT))


def with_fingerprint(task, source):
    train800, val200 = ([example.name for example in source.examples(task, split)] for split in SPLITS[:2])
    return replace(task, fingerprint=split_fingerprint(train800, val200))


class ChangedSource:
    """A source with a changed list of examples for one split."""

    def __init__(self, source, split, change):
        self.source, self.split, self.change = source, split, change
        self.lineage, self.cache = source.lineage, source.cache

    def examples(self, task, split):
        examples = list(self.source.examples(task, split))
        yield from self.change(examples) if split == self.split else examples


# contents of the cache


def test_a_manifest_holds_the_origin_the_versions_and_the_split_check(eurosat):
    task, source = eurosat
    for name in ("train800", "val200"):
        manifest = manifest_of(ensure_prepared(task, name, source, IMAGE_FORMAT))
        assert manifest["origin"] == "eurosat/rgb/2.0.0"
        assert manifest["split_check"] == "official"
        assert {"pillow", "numpy", "tensorflow-datasets"} <= set(manifest["versions"])
        assert len(manifest["images_sha256"]) == 64
    without_fingerprint = replace(task, fingerprint=None)
    assert split.check_names(without_fingerprint, "train800", ["a"]) == "no names"
    assert split.check_names(task, "train800", None) == "no names"
    assert split.check_names(task, "val200", ["a"]) == "differs"
    assert split.check_names(task, "test", ["a"]) is None


def test_a_source_without_origin_can_be_cached(task_and_source):
    task, source = task_and_source
    assert manifest_of(ensure_prepared(task, "val200", source, IMAGE_FORMAT))["origin"] is None


def test_every_pixel_of_real_images_is_that_of_pillow(eurosat):
    task, source = eurosat
    split = cache.load_split(task, "val200", source, ImageFormat(56, "bicubic"))
    for pixels, example in zip(split.images, source.examples(task, "val200"), strict=True):
        picture = Image.open(io.BytesIO(example.image))
        assert (picture.size, picture.mode) == ((64, 64), "RGB")
        expected = np.asarray(picture.resize((56, 56), resample=Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(pixels, expected)


def test_a_manifest_without_the_later_fields_is_still_read(task_and_source):
    task, source = task_and_source
    folder = ensure_prepared(task, "val200", source, IMAGE_FORMAT)
    later = {"base_split", "origin", "split_check"}
    old = {name: value for name, value in manifest_of(folder).items() if name not in later}
    (folder / "manifest.json").write_text(json.dumps({**old, "versions": {"pillow": "10", "numpy": "2"}}))
    assert len(cache.load_split(task, "val200", source, IMAGE_FORMAT).labels) == 200


def test_existing_caches_keep_their_folder_names():
    task, source = (instantiate(config_of("task=eurosat"), axis) for axis in ("task", "data"))
    names = [split_folder(task, split, source, ImageFormat(84, "bicubic")).name for split in SPLITS]
    assert names == ["train800-84-bicubic-917cf02f", "val200-84-bicubic-4b20ff5a", "test-84-bicubic-5cf36e93"]


def test_the_data_of_a_task_has_only_the_splits_of_its_protocol(task_and_source):
    task, source = task_and_source
    data = TaskData(task, source, Protocol(name="tune", train="train800", evaluate="val200"), IMAGE_FORMAT)
    with pytest.raises(UserError, match="protocol=tune reads train800 and val200, never test"):
        data.load("test")
    data.start_reading("val200")
    assert list(data.folders) == ["train800", "val200"]
    np.testing.assert_array_equal(
        data.load("val200").images, cache.load_split(task, "val200", source, IMAGE_FORMAT).images
    )
    assert data.check() == check_of(task, source, ("train800", "val200"))


# images that are not the task's


def test_a_split_with_one_wrong_image_or_another_order_is_refused(task_and_source):
    task, source = task_and_source
    task = with_fingerprint(task, source)
    assert check_of(task, source)["verdict"] == "official"
    changes = {
        "train800": lambda examples: [*examples[:-1], examples[-1]._replace(name="another.png")],
        "val200": lambda examples: examples[::-1],
    }
    for name, change in changes.items():
        changed = ChangedSource(replace(source, cache=f"{source.cache}-{name}"), name, change)
        assert manifest_of(ensure_prepared(task, name, changed, IMAGE_FORMAT))["split_check"] == "differs"
        with pytest.raises(UserError, match=f"not the official split.*{name}"):
            check_of(task, changed)


def test_images_are_hashed_once_per_process_and_in_the_background(task_and_source, monkeypatch):
    task, source = task_and_source
    folder = split_folder(task, "test", source, IMAGE_FORMAT)
    cache.start_reading("test", {"test": folder})  # nothing is cached yet, so nothing is started
    images = cache.load_split(task, "test", source, IMAGE_FORMAT).images
    monkeypatch.setattr(split, "hash_images", lambda _: pytest.fail("hashed again"))
    assert np.array_equal(cache.load_split(task, "test", source, IMAGE_FORMAT).images, images)

    gate, started = threading.Event(), []

    def hash_when_open(images):
        started.append(len(images))
        gate.wait(60)
        return hash_images(images)

    monkeypatch.setattr(split, "hash_images", hash_when_open)
    os.utime(folder / "images.npy")  # a new modification time: the file may have changed
    cache.start_reading("test", {"test": folder})
    cache.start_reading("test", {"test": folder})
    gate.set()
    assert np.array_equal(cache.load_split(task, "test", source, IMAGE_FORMAT).images, images)
    assert started == [120]

    flip(folder / "images.npy", 500)
    cache.start_reading("test", {"test": folder})
    for _ in range(2):
        with pytest.raises(UserError, match="are not those that were prepared; delete that folder"):
            cache.load_split(task, "test", source, IMAGE_FORMAT)
    (folder / "images.npy").write_bytes(b"no array")
    cache.start_reading("test", {"test": folder})
    with pytest.raises(UserError, match="cannot be read"):
        cache.load_split(task, "test", source, IMAGE_FORMAT)


def test_the_digest_of_images_is_that_of_their_digests_in_order():
    images = np.random.default_rng(0).integers(0, 256, (150, 200, 200, 3), dtype=np.uint8)
    assert images.nbytes > 3 * BLOCK_BYTES
    expected = hashlib.sha256(b"".join(hashlib.sha256(image.tobytes()).digest() for image in images))
    assert hash_images(images) == expected.hexdigest()
    assert hash_images(images[:0]) == hashlib.sha256().hexdigest()


@pytest.mark.parametrize("num_images", [799, 801])
def test_a_wrong_number_of_images_is_reported_and_leaves_no_files(task_and_source, num_images):
    task, source = task_and_source
    changed = ChangedSource(source, "train800", lambda examples: (examples * 2)[:num_images])
    with pytest.raises(UserError, match=r"train800.*images, the task's definition says 800"):
        cache.load_split(task, "train800", changed, IMAGE_FORMAT)
    assert list(split_folder(task, "train800", source, IMAGE_FORMAT).parent.iterdir()) == []


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format": 0}, "another version.*format was 0"),
        ({"task_version": 7}, "another version.*task_version was 7"),
        ({"split": "train[1:801]"}, "another version.*split was"),
        ({"count": 199}, "another version.*count was 199"),
        ({"images_sha256": "0"}, "not those that were prepared"),
    ],
)
def test_a_split_of_another_version_is_refused(task_and_source, entries, message):
    task, source = task_and_source
    folder = ensure_prepared(task, "val200", source, IMAGE_FORMAT)
    rewrite(folder, **entries)
    with pytest.raises(UserError, match=f"{message}.*delete that folder"):
        cache.load_split(task, "val200", source, IMAGE_FORMAT)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_an_incomplete_manifest_is_reported(task_and_source, text):
    task, source = task_and_source
    folder = ensure_prepared(task, "val200", source, IMAGE_FORMAT)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"cannot be read.*delete that folder"):
        cache.load_split(task, "val200", source, IMAGE_FORMAT)


# disk space


def test_disk_space_is_checked_before_anything_is_written(task_and_source, monkeypatch):
    task, source = task_and_source
    num_bytes = disk_space.split_bytes(task, "val200", size=16)
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, num_bytes - 1))
    with pytest.raises(UserError, match=r"val200 at 16 px needs 191 kB in .*191 kB are free.*data\.cache=DIR"):
        cache.load_split(task, "val200", source, IMAGE_FORMAT)
    assert list(split_folder(task, "val200", source, IMAGE_FORMAT).parent.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, num_bytes))
    cache.load_split(task, "val200", source, IMAGE_FORMAT)


def test_a_cached_split_takes_at_most_the_computed_bytes_and_little_less(task_and_source):
    task, source = task_and_source
    for name in SPLITS:
        folder = ensure_prepared(task, name, source, ImageFormat(32, "bicubic"))
        num_bytes = sum(file.stat().st_size for file in folder.iterdir())
        limit = disk_space.split_bytes(task, name, size=32)
        assert 0.9 * limit < num_bytes <= limit


def test_the_disk_space_of_the_nineteen_tasks_is_that_of_the_docs():
    tasks = [instantiate(config_of(f"task={path.stem}"), "task") for path in (CONFIGS / "task").glob("*.yaml")]
    num_bytes = sum(disk_space.task_bytes(task, size=224) for task in tasks)
    num_images = sum(1000 + task.num_test for task in tasks)
    assert num_images == 406_904
    assert num_bytes == pytest.approx(num_images * 224 * 224 * 3, rel=0.001)
    assert disk_space.format_bytes(num_bytes) in (ROOT / "docs" / "data.md").read_text()


# interrupted and concurrent preparation

CHILD = """
import json, sys, time
from moppa.data import cache
from moppa.data.images import ImageFormat
from moppa.utils.config import instantiate
from tests.conftest import config_of
from tests.toy_source import ToySource
overrides, pause = json.loads(sys.argv[1]), float(sys.argv[2])
examples = ToySource.examples
def slow_examples(self, task, split):
    for index, example in enumerate(examples(self, task, split)):
        if index % 16 == 0:
            time.sleep(pause)
        yield example
ToySource.examples = slow_examples
config = config_of(*overrides)
task, source = instantiate(config, "task"), instantiate(config, "data")
cache.load_split(task, "train800", source, ImageFormat(64, "bicubic"))
"""


def start_child(overrides, pause):
    return PythonProcess("-c", CHILD, json.dumps(overrides), pause)


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def count_resizes(monkeypatch):
    calls, resize = [], write_split.resize_rgb
    monkeypatch.setattr(write_split, "resize_rgb", lambda *args, **kwargs: calls.append(1) or resize(*args, **kwargs))
    return calls


def test_a_killed_preparation_leaves_no_split_and_resumes_to_the_same_bytes(task_and_source, toy, monkeypatch):
    task, source = task_and_source
    folder = split_folder(task, "train800", source, LARGER)
    journal = folder.with_name(f".{folder.name}.tmp") / "journal.jsonl"
    run = start_child(toy, 0.05)
    wait_for(lambda: journal.exists() and journal.read_text().count("\n") >= 2)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert not folder.exists()

    num_done = sum(len(json.loads(line).get("labels", [])) for line in journal.read_text().splitlines())
    assert 0 < num_done < 800
    resized = count_resizes(monkeypatch)
    resumed = cache.load_split(task, "train800", source, LARGER)
    assert len(resized) == 800 - num_done
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    fresh_source = replace(source, cache=f"{source.cache}-fresh")
    fresh = cache.load_split(task, "train800", fresh_source, LARGER)
    np.testing.assert_array_equal(resumed.images, fresh.images)
    np.testing.assert_array_equal(resumed.labels, fresh.labels)
    fresh_folder = split_folder(task, "train800", fresh_source, LARGER)
    assert (folder / "images.npy").read_bytes() == (fresh_folder / "images.npy").read_bytes()
    assert manifest_of(folder) == manifest_of(fresh_folder)


class Killed(BaseException):
    """Ends a run as a signal would: its files stay."""


def interrupted_folder(task, source, monkeypatch, *, num_chunks):
    """Returns the hidden folder of a val200 at 64 px whose preparation stopped after some of its four chunks."""
    monkeypatch.setattr(write_split, "CHUNK_BYTES", 50 * LARGER.image_bytes)
    append_chunk, num_left = write_split.append_chunk, [num_chunks]

    def append_or_stop(*args):
        if not num_left[0]:
            raise Killed
        num_left[0] -= 1
        append_chunk(*args)

    monkeypatch.setattr(write_split, "append_chunk", append_or_stop)
    with pytest.raises(Killed):
        cache.load_split(task, "val200", source, LARGER)
    monkeypatch.setattr(write_split, "append_chunk", append_chunk)
    folder = split_folder(task, "val200", source, LARGER)
    assert not folder.exists()
    return folder.with_name(f".{folder.name}.tmp")


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def append(file, content):
    file.write_bytes(file.read_bytes() + content)


DAMAGES = {  # a change to the folder, and the number of images that are kept
    "none": (lambda folder: None, 150),
    "a pixel of the third chunk": (lambda folder: flip(folder / "images.npy", 128 + 149 * LARGER.image_bytes), 100),
    "a pixel of the first chunk": (lambda folder: flip(folder / "images.npy", 1000), 0),
    "the array cut": (lambda folder: os.truncate(folder / "images.npy", 128 + 120 * LARGER.image_bytes), 100),
    "pixels without a journal line": (lambda folder: append(folder / "images.npy", bytes(999)), 150),
    "the last line torn": (
        lambda folder: os.truncate(folder / "journal.jsonl", (folder / "journal.jsonl").stat().st_size - 9),
        100,
    ),
    "no journal": (lambda folder: (folder / "journal.jsonl").unlink(), 0),
    "an empty journal": (lambda folder: os.truncate(folder / "journal.jsonl", 0), 0),
    "no array": (lambda folder: (folder / "images.npy").unlink(), 0),
    "another header": (lambda folder: flip(folder / "images.npy", 2), 0),
    "another version": (
        lambda folder: (folder / "journal.jsonl").write_text(
            (folder / "journal.jsonl").read_text().replace('"pillow": "', '"pillow": "0')
        ),
        0,
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_an_interrupted_preparation_keeps_only_images_whose_digest_holds(task_and_source, monkeypatch, name):
    damage, num_kept = DAMAGES[name]
    task, source = task_and_source
    damage(interrupted_folder(task, source, monkeypatch, num_chunks=3))
    resized = count_resizes(monkeypatch)
    resumed = cache.load_split(task, "val200", source, LARGER)
    assert len(resized) == 200 - num_kept
    fresh = cache.load_split(task, "val200", replace(source, cache=f"{source.cache}-fresh"), LARGER)
    np.testing.assert_array_equal(resumed.images, fresh.images)
    np.testing.assert_array_equal(resumed.labels, fresh.labels)


def test_two_runs_at_once_prepare_one_split_and_both_succeed(task_and_source, toy):
    task, source = task_and_source
    runs = [start_child(toy, 0.02), start_child(toy, 0.02)]
    ended = [run.communicate() for run in runs]
    assert [run.returncode for run in ended] == [0, 0], ended
    assert sum("waiting for it" in run.stderr for run in ended) == 1
    folder = split_folder(task, "train800", source, LARGER)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    shared = cache.load_split(task, "train800", source, LARGER)
    alone = cache.load_split(task, "train800", replace(source, cache=f"{source.cache}-alone"), LARGER)
    np.testing.assert_array_equal(shared.images, alone.images)


# the inventory


def test_the_inventory_lists_and_checks_what_is_cached(task_and_source):
    task, source = task_and_source
    assert inventory.cached_tasks(task, source.cache) == []
    cache.load_split(task, "train800val200", source, IMAGE_FORMAT)
    [cached] = inventory.cached_tasks(task, source.cache)
    assert (cached.lineage, cached.size, cached.interpolation) == ("toy", 16, "bicubic")
    assert cached.num_images == {"train800": 800, "val200": 200, "test": None}
    assert (cached.split_check, cached.faults) == ("no digest", [])
    assert cached.num_bytes >= 1000 * 16 * 16 * 3
    other = replace(task, fingerprint=split_fingerprint(["a"], ["b"]))
    [cached] = inventory.cached_tasks(other, source.cache)
    assert cached.split_check == "differs"
    assert "not the official split" in cached.faults[0]
    folder = split_folder(task, "train800", source, IMAGE_FORMAT)
    flip(folder / "images.npy", -1)
    [cached] = inventory.cached_tasks(task, source.cache)
    assert cached.num_images["train800"] is None
    assert "not those that were prepared" in cached.faults[0]


# downloads


@pytest.fixture
def absent(tmp_path):
    config = config_of("task=cifar100", f"data.dir={tmp_path / 'tfds'}", f"data.cache={tmp_path / 'cache'}")
    return instantiate(config, "task"), instantiate(config, "data")


def mock_download(monkeypatch, error=None):
    import tensorflow_datasets as tfds

    calls = []

    def download_and_prepare(self, *, file_format):
        calls.append((self.info.full_name, file_format))
        if error is not None:
            raise error

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download_and_prepare)
    return calls


def test_a_download_is_announced(absent, monkeypatch, capsys):
    task, source = absent
    calls = mock_download(monkeypatch)
    with pytest.raises(UserError):  # the mock downloads nothing
        next(source.examples(task, "val200"))
    assert calls == [("cifar100/3.0.2", "array_record")]
    stderr = capsys.readouterr().err
    assert "downloading cifar100/3.0.2 (at most 169 MB) into" in stderr
    assert source.dir in stderr


@pytest.mark.parametrize(
    ("error", "messages"),
    [
        (ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow"), ["tensorflow", r"'\.\[prepare\]'"]),
        (ImportError("Failed importing cv2"), ["Failed importing cv2", r"'\.\[prepare\]'"]),
        (OSError("name or service not known"), ["OSError: name or service not known", "run it again", "cifar100"]),
        (AssertionError("of another kind"), ["AssertionError: of another kind"]),
    ],
)
def test_a_failed_download_is_reported_in_one_line(absent, monkeypatch, error, messages):
    task, source = absent
    mock_download(monkeypatch, error)
    for message in messages:
        with pytest.raises(UserError, match=message):
            cache.load_split(task, "val200", source, IMAGE_FORMAT)
    assert not [path for path in Path(source.cache).rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "layout"),
    [("resisc45", "NWPU-RESISC45/airplane/"), ("diabetic_retinopathy", r"trainLabels\.csv")],
)
def test_a_manual_download_is_explained_and_not_tried(tmp_path, monkeypatch, name, layout):
    calls = mock_download(monkeypatch)
    config = config_of(f"task={name}", f"data.dir={tmp_path}")
    task, source = instantiate(config, "task"), instantiate(config, "data")
    with pytest.raises(UserError, match=f"by hand.*{layout}.*downloads/manual"):
        next(source.examples(task, "test"))
    assert calls == []
    download.manual_folder(source.dir).mkdir(parents=True)
    (download.manual_folder(source.dir) / "file").touch()
    with pytest.raises(UserError):
        next(source.examples(task, "test"))
    assert len(calls) == 1


def test_nothing_is_downloaded_if_download_is_false(absent, monkeypatch):
    task, source = absent
    calls = mock_download(monkeypatch)
    with pytest.raises(
        UserError, match=r"no prepared cifar100.*data\.download=false.*moppa data prepare task=cifar100"
    ):
        next(replace(source, download=False).examples(task, "val200"))
    assert calls == []
