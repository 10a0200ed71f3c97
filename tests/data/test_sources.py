"""The sources besides TFDS: NOAH's folders, their archives, and images of your own."""

import csv
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image, JpegImagePlugin

from moppa.data import archive, cache, noah_jpeg
from moppa.data.check import split_check
from moppa.data.images import ImageFormat
from moppa.data.source import Example
from moppa.data.split import split_folder
from moppa.data.task import SPLITS
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS, ROOT, config_of, mostly_slow
from tests.run_script import script
from tests.test_configs import TASKS

IMAGE_FORMAT = ImageFormat(16, "bicubic")
NUM_TEST = 60
NUM_IMAGES = {"train800": 800, "val200": 200, "test": NUM_TEST}


def jpeg(*, seed):
    random = np.random.default_rng(seed)
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "JPEG", quality=75)
    return file.getvalue()


@pytest.fixture(scope="session")
def noah_folder(tmp_path_factory):
    """Returns a folder of EuroSAT in NOAH's layout, with random images; train800val200 holds copies."""
    folder = tmp_path_factory.mktemp("vtab-1k") / "eurosat"
    images = {
        split: [jpeg(seed=1000 * number + index) for index in range(num_images)]
        for number, (split, num_images) in enumerate(NUM_IMAGES.items())
    }
    images["train800val200"] = images["train800"] + images["val200"]
    for split, files in images.items():
        (folder / "images" / split).mkdir(parents=True)
        lines = []
        for index, content in enumerate(files):
            path = f"images/{split}/{index:06d}.jpg"
            (folder / path).write_bytes(content)
            lines.append(f"{path} {index % NUM_IMAGES.get(split, 800) % 10}")
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def noah_copy(noah_folder, tmp_path):
    """Returns a copy of the folder, which the test may damage."""
    return Path(shutil.copytree(noah_folder, tmp_path / "vtab-1k" / "eurosat"))


def noah_task_and_source(root, tmp_path, *overrides):
    noah = ["task=eurosat", f"task.num_test={NUM_TEST}", "data=noah", f"data.dir={root}"]
    config = config_of(*noah, *overrides, f"data.cache={tmp_path / 'cache'}")
    return instantiate(config, "task"), instantiate(config, "data")


def test_every_task_of_the_suite_has_a_folder_in_noahs_layout():
    folders = OmegaConf.load(CONFIGS / "data" / "noah.yaml").folders
    assert sorted(folders) == TASKS
    assert len(set(folders.values())) == len(TASKS)


def test_noahs_lists_are_read_in_order_and_the_split_check_finds_no_names(noah_folder, tmp_path):
    task, source = noah_task_and_source(noah_folder.parent, tmp_path)
    assert source.lineage == "noah_jpeg"
    examples = list(source.examples(task, "val200"))
    assert [example.label for example in examples] == [index % 10 for index in range(200)]
    assert examples[7].image == (noah_folder / "images" / "val200" / "000007.jpg").read_bytes()
    assert task.fingerprint is not None  # TFDS has names to check, NOAH has only numbers
    check = split_check(task, source, cache.prepare_splits(task, SPLITS, source, IMAGE_FORMAT))
    assert (check["verdict"], check["fingerprint"], check["test"]) == ("no names", None, "no digest")
    assert check["test_sha256"] == {"names": None, "pixels": None}  # JPEG has other pixels than the data set
    assert set(check["content"]) == set(SPLITS)
    split = cache.load_split(task, "test", source, IMAGE_FORMAT)
    expected = Image.open(noah_folder / "images" / "test" / "000003.jpg").resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(split.images[3], np.asarray(expected))


def test_noahs_images_are_not_scaled_again(noah_folder, tmp_path):
    task, source = noah_task_and_source(noah_folder.parent, tmp_path, "task.pixel_scale=255")
    split = cache.load_split(task, "val200", source, IMAGE_FORMAT)
    expected = Image.open(noah_folder / "images" / "val200" / "000000.jpg").resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(split.images[0], np.asarray(expected))


def test_only_the_test_split_needs_the_test_list(noah_copy, tmp_path):
    (noah_copy / "test.txt").unlink()
    task, source = noah_task_and_source(noah_copy.parent, tmp_path)
    assert len(list(source.examples(task, "train800"))) == 800
    with pytest.raises(UserError, match=r"test\.txt cannot be read .*get it again"):
        list(source.examples(task, "test"))


def test_train800val200_may_have_another_order(noah_copy, tmp_path):
    file = noah_copy / "train800val200.txt"
    file.write_text("\n".join(file.read_text().splitlines()[::-1]))
    task, source = noah_task_and_source(noah_copy.parent, tmp_path)
    assert len(list(source.examples(task, "val200"))) == 200


def change_joined_label(folder):
    text = (folder / "train800val200.txt").read_text()
    (folder / "train800val200.txt").write_text(text.replace("000000.jpg 0\n", "000000.jpg 1\n"))


def change_joined_image(folder):
    (folder / "images" / "train800val200" / "000999.jpg").write_bytes(jpeg(seed=99999))


def shorten_joined(folder):
    drop_last_line(folder / "train800val200.txt")


def drop_last_line(file):
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")


def repeat_val_image_in_test(folder):
    with (folder / "test.txt").open("a") as file:
        file.write("images/val200/000004.jpg 4\n")


def repeat_test_image(folder):
    with (folder / "test.txt").open("a") as file:
        file.write("images/test/./000004.jpg 4\n")


def shorten_val200(folder):
    drop_last_line(folder / "val200.txt")
    drop_last_line(folder / "train800val200.txt")


FAULTS = {
    "joined holds another label": (change_joined_label, ["train800val200.txt is not", "lacks 1 of their 1000"]),
    "joined holds another image": (change_joined_image, ["train800val200.txt is not", "holds 1 others"]),
    "joined is shorter": (shorten_joined, ["train800val200.txt is not", "holds 0 others"]),
    "a test image in training": (
        repeat_val_image_in_test,
        ["test.txt", "images/val200/000004.jpg", "val200.txt already"],
    ),
    "an image twice": (repeat_test_image, ["test.txt", "images/test/000004.jpg", "test.txt already"]),
    "no joined list": (lambda folder: (folder / "train800val200.txt").unlink(), ["train800val200.txt", "get it again"]),
    "no val200 list": (lambda folder: (folder / "val200.txt").unlink(), ["val200.txt", "get it again"]),
    "a list that is not text": (lambda folder: (folder / "val200.txt").write_bytes(b"\xff\xfe\xfa"), ["val200.txt"]),
    "a line without a label": (lambda folder: append(folder, "images/val200/1.jpg"), ["line 201", "a label"]),
    "a label that is a word": (lambda folder: append(folder, "images/val200/1.jpg cat"), ["line 201", "a label"]),
    "a label below 0": (lambda folder: append(folder, "images/val200/1.jpg -1"), ["line 201", "a label"]),
    "a path that leaves": (lambda folder: append(folder, "images/../../1.jpg 1"), ["line 201", "leads out"]),
    "a path from the root": (lambda folder: append(folder, "/etc/passwd 1"), ["line 201", "leads out"]),
    "an image missing": (lambda folder: (folder / "images/val200/000007.jpg").unlink(), ["000007.jpg", "No such file"]),
    "an image empty": (lambda folder: (folder / "images/val200/000007.jpg").write_bytes(b""), ["is not"]),
    "one image less": (shorten_val200, ["holds 199 images", "says 200"]),
    "no folder": (shutil.rmtree, ["neither a folder eurosat nor eurosat.zip nor vtab-1k.zip", "moppa data noah-jpeg"]),
}


def append(folder, line):
    with (folder / "val200.txt").open("a") as file:
        file.write(line + "\n")


@pytest.mark.parametrize(
    "name", mostly_slow(FAULTS, {"a line without a label", "an image missing", "no folder", "no val200 list"})
)
def test_a_fault_in_noahs_folder_is_reported_and_nothing_is_cached(name, noah_copy, tmp_path):
    damage, expected = FAULTS[name]
    damage(noah_copy)
    task, source = noah_task_and_source(noah_copy.parent, tmp_path)
    with pytest.raises(UserError) as error:
        cache.load_split(task, "val200", source, IMAGE_FORMAT)
    for text in expected:
        assert text in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_task_without_a_folder_name_is_reported(tmp_path):
    task, source = noah_task_and_source(tmp_path, tmp_path, "task.name=flowers")
    with pytest.raises(UserError, match=r"flowers has no folder in data\.folders.*data=folder"):
        list(source.examples(task, "val200"))


@pytest.mark.parametrize(
    ("name", "top"),
    [
        ("eurosat.zip", "eurosat/"),
        pytest.param("eurosat.zip", "", marks=pytest.mark.slow),
        pytest.param("vtab-1k.zip", "vtab-1k/eurosat/", marks=pytest.mark.slow),
        ("vtab-1k.tar.gz", "./eurosat/"),
        pytest.param("eurosat.tar", "eurosat/", marks=pytest.mark.slow),
    ],
)
def test_an_archive_is_unpacked_if_the_folder_is_absent(name, top, noah_folder, tmp_path):
    root = tmp_path / "vtab-1k"
    root.mkdir()
    content = {
        f"{top}{path.relative_to(noah_folder).as_posix()}": path.read_bytes()
        for path in noah_folder.rglob("*")
        if path.is_file() and "/test/" not in str(path)
    }
    other_task = {"dtd/train800.txt": b"images/0.jpg 0\n"} if top else {}
    pack(root / name, {**content, **other_task})
    task, source = noah_task_and_source(root, tmp_path)
    assert len(list(source.examples(task, "train800"))) == 800
    (root / name).unlink()
    assert len(list(source.examples(task, "val200"))) == 200
    assert [path.name for path in root.iterdir()] == ["eurosat"]
    assert sorted(path.name for path in (root / "eurosat").iterdir()) == sorted(
        ["images", *(f"{split}.txt" for split in (*NUM_IMAGES, "train800val200"))]
    )


def test_an_archive_of_another_task_is_reported(tmp_path):
    pack(tmp_path / "eurosat.zip", {"dtd/train800.txt": b""})
    task, source = noah_task_and_source(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"eurosat\.zip holds no eurosat/train800\.txt"):
        list(source.examples(task, "train800"))


def pack(path, content):
    """Writes an archive of files with the given names and contents."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, data in content.items():
                file.writestr(name, data)
        return
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as file:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


UNSAFE_PATHS = [
    "../evil",
    "a/../../evil",
    "/evil",
    "..",
    "a/..",
    "C:/evil",
    "..\\evil",
    "\\evil",
    "a\\..\\..\\evil",
    "a\\b",
]


@pytest.mark.parametrize("suffix", archive.SUFFIXES)
@pytest.mark.parametrize("name", UNSAFE_PATHS)
def test_an_archive_with_an_unsafe_path_is_not_unpacked(name, suffix, tmp_path):
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    path = folder / f"packed{suffix}"
    pack(path, {"good": b"1", name: b"2"})
    for unpack in (lambda: archive.extract(path, folder / "out", below=""), lambda: archive.file_names(path)):
        with pytest.raises(UserError, match="nothing was unpacked"):
            unpack()
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [path.name]
    assert not (folder / "out").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind, tmp_path):
    with tarfile.open(tmp_path / "packed.tar", "w") as file:
        info = tarfile.TarInfo("inside")
        info.type, info.linkname = kind, "good"  # refused although it stays inside of the target
        file.addfile(info)
    with pytest.raises(UserError, match="'inside', which is a link, a device"):
        archive.extract(tmp_path / "packed.tar", tmp_path / "out", below="")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o060666, 0o010666])
def test_links_and_devices_in_a_zip_are_refused(mode, tmp_path):
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as file:
        info = zipfile.ZipInfo("inside")
        info.create_system, info.external_attr = 3, mode << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="'inside', which is a link, a device"):
        archive.extract(tmp_path / "packed.zip", tmp_path / "out", below="")
    assert not (tmp_path / "out").exists()


def test_a_repeated_name_is_refused(tmp_path):
    pack(tmp_path / "packed.tar", {"a": b"1", "./a": b"2"})
    with pytest.raises(UserError, match=r"'\./a', twice"):
        archive.extract(tmp_path / "packed.tar", tmp_path / "out", below="")


@pytest.mark.parametrize("suffix", archive.SUFFIXES)
def test_a_damaged_archive_is_reported_and_leaves_no_files(suffix, tmp_path):
    path = tmp_path / f"packed{suffix}"
    noise = np.random.default_rng(0).bytes(200_000)
    pack(path, {"a": noise, "b": noise})
    intact = path.read_bytes()
    for content in (intact[: len(intact) // 2], b"", b"no archive at all" * 100):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be unpacked"):
            archive.extract(path, tmp_path / "out", below="")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_archive_with_changed_bytes_is_reported(tmp_path):
    path = tmp_path / "packed.zip"
    pack(path, {"a": b"x" * 1000})
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be unpacked.*CRC"):
        archive.extract(path, tmp_path / "out", below="")
    assert not (tmp_path / "out").exists()


def test_only_the_files_below_the_given_folder_are_unpacked(tmp_path):
    pack(tmp_path / "packed.zip", {"x/a/1": b"1", "x/a/b/2": b"2", "x/ab/3": b"3", "4": b"4"})
    archive.extract(tmp_path / "packed.zip", tmp_path / "out", below="x/a")
    unpacked = {
        str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in (tmp_path / "out").rglob("[0-9]")
    }
    assert unpacked == {"1": b"1", "b/2": b"2"}


def test_a_target_that_cannot_be_written_is_reported(tmp_path):
    pack(tmp_path / "packed.zip", {"a": b"1"})
    with pytest.raises(UserError, match="there is a file in place of a folder"):
        archive.extract(tmp_path / "packed.zip", tmp_path / "packed.zip" / "out", below="")


@pytest.fixture(scope="session")
def eurosat_as_jpeg(shared, tmp_path_factory):
    out = tmp_path_factory.mktemp("jpeg")
    done = script("as_noah_jpeg", "task=eurosat", f"data.dir={shared / 'tfds'}", "--out", out, "--without-test")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out / "eurosat")
    return out / "eurosat"


def test_real_eurosat_as_noah_jpeg_is_quality_75_with_halved_chroma(eurosat_as_jpeg):
    reference = io.BytesIO()
    Image.new("RGB", (64, 64)).save(reference, "JPEG", quality=75)
    tables = Image.open(reference).quantization
    files = sorted(eurosat_as_jpeg.rglob("*.jpg"))
    assert len(files) == 2000
    for file in files[::50]:
        with Image.open(file) as picture:
            assert (picture.mode, picture.size) == ("RGB", (64, 64))
            assert picture.quantization == tables
            assert JpegImagePlugin.get_sampling(picture) == 2  # 4:2:0
    # the first entry of the standard luminance table at quality 75: (50 * 16 + 50) // 100
    assert tables[0][0] == 8


def test_real_eurosat_as_noah_jpeg_differs_a_little_from_the_lossless_lineage(eurosat_as_jpeg, shared, tmp_path):
    task, source = noah_task_and_source(eurosat_as_jpeg.parent, tmp_path)
    config = config_of("task=eurosat", f"data.dir={shared / 'tfds'}", f"data.cache={tmp_path / 'cache'}")
    tfds_source, original_size = instantiate(config, "data"), ImageFormat(64, "bicubic")
    lossless = cache.load_split(task, "val200", tfds_source, original_size)
    jpeg = cache.load_split(task, "val200", source, original_size)
    np.testing.assert_array_equal(jpeg.labels, lossless.labels)
    difference = np.abs(jpeg.images.astype(int) - lossless.images.astype(int)).mean()
    assert 0.5 < difference < 8  # gray levels
    folders = [split_folder(task, "val200", either, IMAGE_FORMAT).parent.name for either in (source, tfds_source)]
    assert folders == ["noah_jpeg", "tfds"]


def test_the_script_reports_errors_in_one_line(eurosat_as_jpeg, shared, tmp_path):
    for args, expected in [
        (["task=eurosat", "data.dir=nowhere", "data.download=false", "--out", tmp_path], "no prepared eurosat/rgb"),
        (["task=eurosaat", "--out", tmp_path], "eurosaat"),
        (["task=eurosat", f"data.dir={shared / 'tfds'}", "--out", eurosat_as_jpeg.parent], "exists already"),
    ]:
        done = script("as_noah_jpeg", *args)
        assert done.returncode == 1
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_binary_image_is_scaled_and_becomes_rgb_before_it_is_encoded(toy, tmp_path):
    config = config_of(*toy, "task.pixel_scale=255")
    task, source = instantiate(config, "task"), BinarySource(cache=str(tmp_path / "cache"))
    noah_jpeg.write_folder(tmp_path / "noah" / "eurosat", task, source, ["train800", "val200"])
    with Image.open(tmp_path / "noah" / "eurosat" / "images" / "val200" / "000000.jpg") as picture:
        assert picture.mode == "RGB"
        assert np.asarray(picture).min() == 0
        assert np.asarray(picture).max() == 255
    task, source = noah_task_and_source(tmp_path / "noah", tmp_path, "task.pixel_scale=255")
    split = cache.load_split(task, "val200", source, IMAGE_FORMAT)
    np.testing.assert_allclose(split.images[0], 255 * np.repeat(BINARY, 3, axis=2), atol=2)


BINARY = np.kron([[0, 1], [1, 0]], np.ones((8, 8), dtype=np.uint8))[..., None].astype(np.uint8)


class BinarySource:
    lineage = "toy"

    def __init__(self, cache):
        self.cache = cache

    def examples(self, task, split):
        for index in range(task.num_images(split)):
            yield Example(BINARY, index % 10, None)


SHAPES = {"train": 800, "val": 200, "test": 30}
OWN = [
    "task=eurosat",
    "task.name=shapes",
    "task.builder=own",
    "task.splits={train800: train, val200: val, test: test}",
    "task.num_test=30",
    "task.num_classes=3",
    "task.fingerprint=null",
    "task.name_key=null",
    "data=folder",
]
KINDS = ("disc", "ring", "star")


@pytest.fixture
def own_folder(tmp_path):
    """Returns a folder of 1030 files SPLIT/CLASS/N.png with arbitrary content."""
    folder = tmp_path / "own"
    for split, num_images in SHAPES.items():
        for kind in KINDS:
            (folder / split / kind).mkdir(parents=True)
        for index in range(num_images):
            (folder / split / KINDS[index % 3] / f"{index:03d}.png").write_bytes(f"{split} {index}".encode())
    return folder


def own_task_and_source(folder, *overrides):
    config = config_of(*OWN, f"data.dir={folder}", f"data.cache={folder / 'cache'}", *overrides)
    return instantiate(config, "task"), instantiate(config, "data")


def write_table(folder, *, change=lambda rows: rows, header=("path", "label", "split")):
    rows = [
        (str(path.relative_to(folder)), path.parent.name, path.parent.parent.name)
        for path in folder.rglob("[0-9]*.png")
    ]
    with (folder / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *change(sorted(rows))])
    return "data.table=images.csv"


def test_an_image_folder_is_read_in_the_order_of_its_paths_with_sorted_classes(own_folder):
    (own_folder / "train" / "disc" / "notes.txt").write_text("no image")
    task, source = own_task_and_source(own_folder)
    assert source.lineage == "own"
    examples = list(source.examples(task, "test"))
    assert [example.name for example in examples[:2]] == ["disc/000.png", "disc/003.png"]
    assert [example.label for example in examples] == [0] * 10 + [1] * 10 + [2] * 10
    assert examples[10].image == b"test 1"
    assert [len(list(source.examples(task, split))) for split in ("train800", "val200")] == [800, 200]


def test_a_table_gives_the_same_examples_as_the_folders_in_its_own_order(own_folder):
    task, source = own_task_and_source(own_folder, write_table(own_folder, change=lambda rows: rows[::-1]))
    from_table = list(source.examples(task, "val200"))
    task, source = own_task_and_source(own_folder)
    from_folders = list(source.examples(task, "val200"))
    assert [example[:2] for example in from_table[::-1]] == [example[:2] for example in from_folders]


def test_labels_do_not_depend_on_the_classes_in_a_split(own_folder):
    classes = "data.classes=[square,star,ring,disc]"
    with pytest.raises(UserError, match=r"4 classes.*task\.num_classes=3"):
        own_examples(own_folder, "test", classes)
    examples = own_examples(own_folder, "test", classes, "task.num_classes=4")
    labels = {example.name.partition("/")[0]: example.label for example in examples}
    assert labels == {"star": 1, "ring": 2, "disc": 3}
    shutil.rmtree(own_folder / "test" / "disc")
    examples = own_examples(own_folder, "test", "task.num_test=20")
    assert sorted({example.label for example in examples}) == [1, 2]


def own_examples(folder, split, *overrides):
    task, source = own_task_and_source(folder, *overrides)
    return list(source.examples(task, split))


def test_numeric_class_names_are_sorted_as_numbers(own_folder):
    names = {"disc": "10", "ring": "9", "star": "2"}
    table = write_table(own_folder, change=lambda rows: [(path, names[kind], split) for path, kind, split in rows])
    examples = own_examples(own_folder, "test", table)
    labels = {example.name.split("/")[1]: example.label for example in examples}
    assert labels == {"disc": 2, "ring": 1, "star": 0}


def link(path, target):
    path.unlink()
    path.symlink_to(target)


def write_noise(folder):
    (folder / "noise.csv").write_bytes(b"\xff\xfe\0\xd8")
    return "data.table=noise.csv"


OWN_FAULTS = {
    "split absent": (lambda folder: shutil.rmtree(folder / "test"), ["no folder", "/test", "data.table=FILE"]),
    "image in no class": (
        lambda folder: (folder / "train" / "x.png").write_bytes(b""),
        ["x.png is in no class", "CLASS/"],
    ),
    "too few": (
        lambda folder: (folder / "val" / "disc" / "000.png").unlink(),
        ["'val'", "199 images", "needs 200", "task.num_train=800, num_val=200 and num_test="],
    ),
    "class too many": (
        lambda folder: (folder / "test" / "ring").rename(folder / "test" / "rung"),
        ["4 classes", "task.num_classes=3", "data.classes"],
    ),
    "class unknown": (lambda folder: "data.classes=[disc,ring,cube]", ["'star'", "data.classes", "add it there"]),
    "class named twice": (lambda folder: "data.classes=[disc,ring,star,star]", ["3 classes", "once"]),
    "class not listed": (lambda folder: "data.classes=[disc,ring]", ["'star'", "data.classes"]),
    "same file in two splits": (
        lambda folder: link(folder / "test" / "disc" / "000.png", folder / "train" / "disc" / "000.png"),
        ["in split 'train'", "again in 'test'", "remove one"],
    ),
    "table absent": (lambda folder: "data.table=none.csv", ["none.csv cannot be read", "No such file", "data.table"]),
    "table lacks a column": (
        lambda folder: write_table(folder, header=("path", "class", "split")),
        ["images.csv lacks the column label", "path,label,split"],
    ),
    "table is not text": (write_noise, ["noise.csv cannot be read"]),
    "table is empty": (
        lambda folder: write_table(folder, header=(), change=lambda rows: []),
        ["images.csv is empty", "path,label,split"],
    ),
    "table has a cell less": (
        lambda folder: write_table(folder, change=lambda rows: [rows[0][:2], *rows[1:]]),
        ["images.csv line 2", "is missing"],
    ),
    "table names another split": (
        lambda folder: write_table(folder, change=lambda rows: [(*rows[0][:2], "dev"), *rows[1:]]),
        ["images.csv line 2", "'dev'", "train, val, test"],
    ),
    "table names a file twice": (
        lambda folder: write_table(folder, change=lambda rows: [*rows, (*rows[-1][:2], "test")]),
        ["again in 'test'"],
    ),
    "table names no such file": (
        lambda folder: write_table(folder, change=lambda rows: [(f"{rows[-1][0]}x", *rows[-1][1:]), *rows[:-1]]),
        ["pngx cannot be read"],
    ),
}


@pytest.mark.parametrize("name", OWN_FAULTS)
def test_a_fault_in_your_own_data_is_reported_with_a_hint(name, own_folder):
    damage, expected = OWN_FAULTS[name]
    override = damage(own_folder)
    overrides = [override] if isinstance(override, str) else []
    with pytest.raises(UserError) as error:
        [own_examples(own_folder, split, *overrides) for split in SPLITS]
    for text in expected:
        assert text in str(error.value)


@pytest.mark.slow
def test_the_worked_example_of_the_docs_runs(tmp_path):
    text = (ROOT / "docs" / "own_data.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.M | re.S)
    [(_, draw), *_] = [block for block in blocks if block[0] == "python"]
    [yaml] = [body for kind, body in blocks if kind == "yaml"]
    commands = re.findall(r"^    ((?:python|moppa) .*)$", text[text.index("## 1.") :], flags=re.M)
    assert len(commands) == 5

    # a copy of the checkout, so that the YAML can have the path of the text
    for name in ("baselines", "configs", "moppa", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", tmp_path)
    (tmp_path / "draw_shapes.py").write_text(draw)
    (tmp_path / "configs" / "task" / "own").mkdir()
    (tmp_path / "configs" / "task" / "own" / "shapes.yaml").write_text(yaml)
    stdout = [in_checkout(tmp_path, command) for command in commands]
    assert any("of 60 correct" in text for text in stdout)
    written = (tmp_path / "configs" / "task" / "own" / "shapes.yaml").read_text()
    assert re.search(r"^  pixels: [0-9a-f]{64}$", written, flags=re.M)
    table = next((tmp_path / "results" / "tables").glob("own-*.md")).read_text()
    assert "Shapes" in table
    assert "data lineage own" in table


def in_checkout(folder, command):
    program, *args = command.split()
    done = subprocess.run(
        [sys.executable, *(["-m", "moppa.cli.main"] if program == "moppa" else []), *args],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
