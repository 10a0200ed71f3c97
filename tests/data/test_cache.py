"""The store: whole or absent, told apart by version, resumed after a kill, shared by two runs, never silently wrong."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from moppa.data import cache, disk_space, download, inventory, prepare, split
from moppa.data.images import PIECE_BYTES, hash_images
from moppa.data.prepare import ensure_prepared
from moppa.data.split import split_folder
from moppa.data.task import split_fingerprint
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS, ROOT, config_of

LOOK = {"size": 16, "interpolation": "bicubic"}
VTAB = [instantiate(config_of(f"task={path.stem}"), "task") for path in sorted((CONFIGS / "task").glob("*.yaml"))]


@pytest.fixture
def axes(toy):
    config = config_of(*toy)
    return instantiate(config, "task"), instantiate(config, "data")


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    config = config_of("task=eurosat", f"data.dir={shared / 'tfds'}", f"data.cache={tmp_path_factory.mktemp('store')}")
    return instantiate(config, "task"), instantiate(config, "data")


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def rewrite(folder, **entries):
    (folder / "manifest.json").write_text(json.dumps({**manifest_of(folder), **entries}))


def own_fingerprint(task, source):
    names = {name: [one.name for one in source.examples(task, name)] for name in ("train800", "val200")}
    return replace(task, fingerprint=split_fingerprint(names["train800"], names["val200"]))


class Edited:
    """A source whose list of a part's examples is changed on the way."""

    def __init__(self, source, split, change):
        self.source, self.part, self.change = source, split, change
        self.lineage, self.cache = source.lineage, source.cache

    def examples(self, task, split):
        examples = list(self.source.examples(task, split))
        yield from self.change(examples) if split == self.part else examples


# what is written


def test_a_manifest_says_what_was_read_with_what_and_whether_it_is_the_official_split(real):
    task, source = real
    for name in ("train800", "val200"):
        found = manifest_of(ensure_prepared(task, name, source, **LOOK))
        assert found["read"] == "eurosat/rgb/2.0.0"
        assert found["verdict"] == "official"
        assert {"pillow", "numpy", "tensorflow-datasets"} <= set(found["versions"])
        assert len(found["images_sha256"]) == 64
    none = replace(task, fingerprint=None)
    assert split.check_names(none, "train800", ["a"]) == "no names"
    assert split.check_names(task, "train800", None) == "no names"
    assert split.check_names(task, "val200", ["a"]) == "differs"
    assert split.check_names(task, "test", ["a"]) is None


def test_a_source_that_cannot_say_what_it_reads_is_written_all_the_same(axes):
    task, source = axes
    assert manifest_of(ensure_prepared(task, "val200", source, **LOOK))["read"] is None


def test_every_pixel_of_real_images_is_pillows(real):
    task, source = real
    split = cache.load_split(task, "val200", source, size=56, interpolation="bicubic")
    for pixels, example in zip(split.images, source.examples(task, "val200"), strict=True):
        picture = Image.open(io.BytesIO(example.image))
        assert (picture.size, picture.mode) == ((64, 64), "RGB")
        by_hand = np.asarray(picture.resize((56, 56), resample=Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(pixels, by_hand)


def test_a_store_written_before_the_manifest_grew_is_still_read(axes):
    task, source = axes
    folder = ensure_prepared(task, "val200", source, **LOOK)
    old = {name: value for name, value in manifest_of(folder).items() if name not in {"read", "verdict"}}
    (folder / "manifest.json").write_text(json.dumps({**old, "versions": {"pillow": "10", "numpy": "2"}}))
    assert len(cache.load_split(task, "val200", source, **LOOK).labels) == 200


def test_what_developers_have_already_is_where_it_is_looked_for(shared):
    task, source = (instantiate(config_of("task=eurosat"), axis) for axis in ("task", "data"))
    names = [
        split_folder(task, name, source, size=84, interpolation="bicubic").name
        for name in ("train800", "val200", "test")
    ]
    assert names == ["train800-84-bicubic-cef5a11a", "val200-84-bicubic-2bee2098", "test-84-bicubic-53faef51"]


# what is not the task's is not used


def test_a_split_wrong_by_one_image_or_permuted_is_named_and_not_used(axes):
    task, source = axes
    task = own_fingerprint(task, source)
    assert cache.split_check(task, source, **LOOK)["verdict"] == "official"
    changes = {
        "train800": lambda examples: [*examples[:-1], examples[-1]._replace(name="another.png")],
        "val200": lambda examples: examples[::-1],
    }
    for name, change in changes.items():
        edited = Edited(replace(source, cache=f"{source.cache}-{name}"), name, change)
        assert manifest_of(ensure_prepared(task, name, edited, **LOOK))["verdict"] == "differs"
        with pytest.raises(UserError, match=f"not the official split.*{name}"):
            cache.split_check(task, edited, **LOOK)


def test_images_are_checked_once_a_process_and_beside_what_else_is_done(axes, monkeypatch):
    task, source = axes
    look = {"source": source, **LOOK}
    cache.start_reading(task, "test", **look)  # nothing is there yet, so nothing is begun
    images = cache.load_split(task, "test", **look).images
    folder = split_folder(task, "test", **look)
    monkeypatch.setattr(split, "digest_of_images", lambda _: pytest.fail("checked again"))
    assert np.array_equal(cache.load_split(task, "test", **look).images, images)

    gate, begun = threading.Event(), []

    def waiting(found):
        begun.append(len(found))
        gate.wait(60)
        return hash_images(found)

    monkeypatch.setattr(split, "digest_of_images", waiting)
    os.utime(folder / "images.npy")  # who touched it may have changed it
    cache.start_reading(task, "test", **look)
    cache.start_reading(task, "test", **look)
    gate.set()
    assert np.array_equal(cache.load_split(task, "test", **look).images, images)
    assert begun == [120]

    flip(folder / "images.npy", 500)
    cache.start_reading(task, "test", **look)
    for _ in range(2):
        with pytest.raises(UserError, match="are not those that were prepared; delete that folder"):
            cache.load_split(task, "test", **look)
    (folder / "images.npy").write_bytes(b"no array")
    cache.start_reading(task, "test", **look)
    with pytest.raises(UserError, match="cannot be read"):
        cache.load_split(task, "test", **look)


def test_the_digest_of_many_images_is_that_of_their_digests_in_order():
    images = np.random.default_rng(0).integers(0, 256, (150, 200, 200, 3), dtype=np.uint8)
    assert images.nbytes > 3 * PIECE_BYTES
    expected = hashlib.sha256(b"".join(hashlib.sha256(image.tobytes()).digest() for image in images))
    assert hash_images(images) == expected.hexdigest()
    assert hash_images(images[:0]) == hashlib.sha256().hexdigest()


@pytest.mark.parametrize("wrong", [799, 801])
def test_a_part_of_another_size_is_named_and_leaves_nothing(axes, wrong):
    task, source = axes
    edited = Edited(source, "train800", lambda examples: (examples * 2)[:wrong])
    with pytest.raises(UserError, match=r"train800.*images, the task's definition says 800"):
        cache.load_split(task, "train800", edited, **LOOK)
    assert list(split_folder(task, "train800", source, **LOOK).parent.iterdir()) == []


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"format": 0}, "another version.*format was 0"),
        ({"task_version": 7}, "another version.*task_version was 7"),
        ({"split": "train[1:801]"}, "another version.*split was"),
        ({"count": 199}, "another version.*count was 199"),
        ({"images_sha256": "0"}, "not those that were prepared"),
    ],
)
def test_a_manifest_of_another_version_is_named_and_not_used(axes, entries, words):
    task, source = axes
    folder = ensure_prepared(task, "val200", source, **LOOK)
    rewrite(folder, **entries)
    with pytest.raises(UserError, match=f"{words}.*delete that folder"):
        cache.load_split(task, "val200", source, **LOOK)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_manifest_that_is_none_is_named(axes, text):
    task, source = axes
    folder = ensure_prepared(task, "val200", source, **LOOK)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"cannot be read.*delete that folder"):
        cache.load_split(task, "val200", source, **LOOK)


# room


def test_room_is_asked_for_before_anything_is_written(axes, monkeypatch):
    task, source = axes
    needed = disk_space.split_bytes(task, "val200", size=16)
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, needed - 1))
    with pytest.raises(UserError, match=r"val200 at 16 px needs 184 kB in .*184 kB are free.*data\.cache=DIR"):
        cache.load_split(task, "val200", source, **LOOK)
    assert list(split_folder(task, "val200", source, **LOOK).parent.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, needed))
    cache.load_split(task, "val200", source, **LOOK)


def test_a_part_takes_no_more_than_was_said_and_little_less(axes):
    task, source = axes
    for name in disk_space.SPLITS:
        folder = ensure_prepared(task, name, source, size=32, interpolation="bicubic")
        takes = sum(file.stat().st_size for file in folder.iterdir())
        assert 0.9 * disk_space.split_bytes(task, name, size=32) < takes <= disk_space.split_bytes(task, name, size=32)


def test_the_nineteen_tasks_need_what_the_docs_say():
    total = sum(disk_space.task_bytes(task, size=224) for task in VTAB)
    num_images = sum(1000 + task.num_test for task in VTAB)
    assert num_images == 406_904
    assert total == pytest.approx(num_images * 224 * 224 * 3, rel=0.001)
    assert disk_space.format_bytes(total) in (ROOT / "docs" / "data.md").read_text()


# a killed run, and two at once

CHILD = """
import json, sys, time
from moppa.configured import make
from moppa.data import store
from tests import toy_source
from tests.conftest import config_of
overrides, pause = json.loads(sys.argv[1]), float(sys.argv[2])
examples = toy.ToySource.examples
def slowly(self, task, part):
    for index, example in enumerate(examples(self, task, part)):
        if index % 16 == 0:
            time.sleep(pause)
        yield example
toy.ToySource.examples = slowly
config = config_of(*overrides)
store.load(make(config, "task"), "train800", make(config, "data"), size=64, interpolation="bicubic")
"""


def child(overrides, pause):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(overrides), str(pause)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_killed_run_leaves_no_half_store_and_the_next_goes_on_to_the_same_bytes(axes, toy, monkeypatch):
    task, source = axes
    look = {"size": 64, "interpolation": "bicubic"}
    folder = split_folder(task, "train800", source, **look)
    journal = folder.with_name(f".{folder.name}.tmp") / "journal.jsonl"
    run = child(toy, 0.05)
    wait_for(lambda: journal.exists() and journal.read_text().count("\n") >= 2)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert not folder.exists()

    done = sum(len(json.loads(line).get("labels", [])) for line in journal.read_text().splitlines())
    assert 0 < done < 800
    asked, resize = [], prepare.resize
    monkeypatch.setattr(prepare, "resize", lambda *image, **named: asked.append(1) or resize(*image, **named))
    resumed = cache.load_split(task, "train800", source, **look)
    assert len(asked) == 800 - done
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    fresh = cache.load_split(task, "train800", replace(source, cache=f"{source.cache}-fresh"), **look)
    np.testing.assert_array_equal(resumed.images, fresh.images)
    np.testing.assert_array_equal(resumed.labels, fresh.labels)
    again = split_folder(task, "train800", replace(source, cache=f"{source.cache}-fresh"), **look)
    assert (folder / "images.npy").read_bytes() == (again / "images.npy").read_bytes()
    assert manifest_of(folder) == manifest_of(again)


class Killed(BaseException):
    """Ends a run as a signal would: what is there stays there."""


def half_done(axes, monkeypatch, chunks):
    """The hidden folder of a val200 at 64 px that was stopped after some of its four chunks."""
    task, source = axes
    monkeypatch.setattr(prepare, "CHUNK_BYTES", 50 * 3 * 64**2)
    add, left = prepare.add, [chunks]

    def stop(*words, **named):
        if not left[0]:
            raise Killed
        left[0] -= 1
        add(*words, **named)

    monkeypatch.setattr(prepare, "add", stop)
    with pytest.raises(Killed):
        cache.load_split(task, "val200", source, size=64, interpolation="bicubic")
    monkeypatch.setattr(prepare, "add", add)
    folder = split_folder(task, "val200", source, size=64, interpolation="bicubic")
    assert not folder.exists()
    return folder.with_name(f".{folder.name}.tmp")


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def append(file, content):
    file.write_bytes(file.read_bytes() + content)


DAMAGES = {
    "none": (lambda at: None, 150),
    "a pixel of the third chunk": (lambda at: flip(at / "images.npy", 128 + 149 * 3 * 64**2), 100),
    "a pixel of the first chunk": (lambda at: flip(at / "images.npy", 1000), 0),
    "the array cut": (lambda at: os.truncate(at / "images.npy", 128 + 120 * 3 * 64**2), 100),
    "pixels without their line": (lambda at: append(at / "images.npy", bytes(999)), 150),
    "the last line torn": (
        lambda at: os.truncate(at / "journal.jsonl", (at / "journal.jsonl").stat().st_size - 9),
        100,
    ),
    "no journal": (lambda at: (at / "journal.jsonl").unlink(), 0),
    "an empty journal": (lambda at: os.truncate(at / "journal.jsonl", 0), 0),
    "no array": (lambda at: (at / "images.npy").unlink(), 0),
    "another header": (lambda at: flip(at / "images.npy", 2), 0),
    "another version": (
        lambda at: (at / "journal.jsonl").write_text(
            (at / "journal.jsonl").read_text().replace('"pillow": "', '"pillow": "0')
        ),
        0,
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_of_a_half_store_only_what_its_digest_proves_is_kept(axes, monkeypatch, name):
    damage, kept = DAMAGES[name]
    task, source = axes
    at = half_done(axes, monkeypatch, chunks=3)
    damage(at)
    asked, resize = [], prepare.resize
    monkeypatch.setattr(prepare, "resize", lambda *image, **named: asked.append(1) or resize(*image, **named))
    resumed = cache.load_split(task, "val200", source, size=64, interpolation="bicubic")
    assert len(asked) == 200 - kept
    fresh = cache.load_split(
        task, "val200", replace(source, cache=f"{source.cache}-fresh"), size=64, interpolation="bicubic"
    )
    np.testing.assert_array_equal(resumed.images, fresh.images)
    np.testing.assert_array_equal(resumed.labels, fresh.labels)


def test_two_runs_at_once_make_one_store_and_neither_fails(axes, toy):
    task, source = axes
    look = {"size": 64, "interpolation": "bicubic"}
    runs = [child(toy, 0.02), child(toy, 0.02)]
    said = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert sum("waiting for it" in text for text in said) == 1
    folder = split_folder(task, "train800", source, **look)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    shared = cache.load_split(task, "train800", source, **look)
    alone = cache.load_split(task, "train800", replace(source, cache=f"{source.cache}-alone"), **look)
    np.testing.assert_array_equal(shared.images, alone.images)


# what is at hand


def test_a_survey_of_nothing_finds_nothing_and_of_a_store_what_it_holds(axes):
    task, source = axes
    assert inventory.cached_tasks(task, source.cache) == []
    cache.load_split(task, "train800val200", source, **LOOK)
    [found] = inventory.cached_tasks(task, source.cache)
    assert (found.lineage, found.size, found.interpolation) == ("toy", 16, "bicubic")
    assert found.counts == {"train800": 800, "val200": 200, "test": None}
    assert (found.verdict, found.faults) == ("no names", [])
    assert found.num_bytes >= 1000 * 16 * 16 * 3
    other = replace(task, fingerprint=split_fingerprint(["a"], ["b"]))
    [found] = inventory.cached_tasks(other, source.cache)
    assert found.verdict == "differs"
    assert "not the official split" in found.faults[0]
    folder = split_folder(task, "train800", source, **LOOK)
    flip(folder / "images.npy", -1)
    [found] = inventory.cached_tasks(task, source.cache)
    assert found.counts["train800"] is None
    assert "not those that were prepared" in found.faults[0]


# what is not at hand is fetched


@pytest.fixture
def absent(tmp_path):
    config = config_of("task=cifar100", f"data.dir={tmp_path / 'tfds'}", f"data.cache={tmp_path / 'store'}")
    return instantiate(config, "task"), instantiate(config, "data")


def stand_in(monkeypatch, error=None):
    import tensorflow_datasets as tfds

    calls = []

    def download_and_prepare(self, *, file_format):
        calls.append((self.info.full_name, file_format))
        if error is not None:
            raise error

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download_and_prepare)
    return calls


def test_what_is_downloaded_is_said_before_it_is(absent, monkeypatch, capsys):
    task, source = absent
    calls = stand_in(monkeypatch)
    with pytest.raises(UserError):  # the stand-in brings nothing
        next(source.examples(task, "val200"))
    assert calls == [("cifar100/3.0.2", "array_record")]
    said = capsys.readouterr().err
    assert "downloading cifar100/3.0.2 (at most 169 MB) into" in said
    assert source.dir in said


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow"), ["tensorflow", r"'\.\[prepare\]'"]),
        (ImportError("Failed importing cv2"), ["Failed importing cv2", r"'\.\[prepare\]'"]),
        (OSError("name or service not known"), ["OSError: name or service not known", "run it again", "cifar100"]),
        (AssertionError("of another kind"), ["AssertionError: of another kind"]),
    ],
)
def test_what_goes_wrong_on_the_way_is_said_in_a_line(absent, monkeypatch, error, words):
    task, source = absent
    stand_in(monkeypatch, error)
    for word in words:
        with pytest.raises(UserError, match=word):
            cache.load_split(task, "val200", source, **LOOK)
    assert not list(source_files(source))


def source_files(source):
    from pathlib import Path

    return [path for path in Path(source.cache).rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "words"),
    [("resisc45", "NWPU-RESISC45/airplane/"), ("diabetic_retinopathy", r"trainLabels\.csv")],
)
def test_a_manual_download_is_told_and_not_tried(tmp_path, monkeypatch, name, words):
    calls = stand_in(monkeypatch)
    config = config_of(f"task={name}", f"data.dir={tmp_path}")
    task, source = instantiate(config, "task"), instantiate(config, "data")
    with pytest.raises(UserError, match=f"by hand.*{words}.*downloads/manual"):
        next(source.examples(task, "test"))
    assert calls == []
    download.manual_folder(source.dir).mkdir(parents=True)
    (download.manual_folder(source.dir) / "file").touch()
    with pytest.raises(UserError):
        next(source.examples(task, "test"))
    assert len(calls) == 1


def test_nothing_is_downloaded_where_that_is_off(absent, monkeypatch):
    task, source = absent
    calls = stand_in(monkeypatch)
    with pytest.raises(UserError, match=r"no prepared cifar100.*data\.download=false.*prepare_data\.py task=cifar100"):
        next(replace(source, download=False).examples(task, "val200"))
    assert calls == []
