"""Sources besides TFDS: NOAH's folders, archives of them, and images of one's own."""

import csv
import io
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

from moppa.data import archive, cache, noah, noah_jpeg
from moppa.data.split import split_folder
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS, ROOT, config_of
from tests.scripts.test_scripts import script
from tests.test_configs import TASKS

LOOK = {"size": 16, "interpolation": "bicubic"}
NUM_TEST = 60


def jpeg(*, seed):
    random = np.random.default_rng(seed)
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "JPEG", quality=75)
    return file.getvalue()


@pytest.fixture(scope="session")
def noah_folder(tmp_path_factory):
    """A whole folder in EuroSAT's form as NOAH made them, of random images; train800val200 holds copies."""
    folder = tmp_path_factory.mktemp("vtab-1k") / "eurosat"
    images = {part: [jpeg(seed=1000 * k + i) for i in range(n)] for k, (part, n) in enumerate(PART_SIZES.items())}
    images["train800val200"] = images["train800"] + images["val200"]
    for part, files in images.items():
        (folder / "images" / part).mkdir(parents=True)
        lines = []
        for index, content in enumerate(files):
            path = f"images/{part}/{index:06d}.jpg"
            (folder / path).write_bytes(content)
            lines.append(f"{path} {index % PART_SIZES.get(part, 800) % 10}")
        (folder / f"{part}.txt").write_text("\n".join(lines) + "\n")
    return folder


PART_SIZES = {"train800": 800, "val200": 200, "test": NUM_TEST}


@pytest.fixture
def mine(noah_folder, tmp_path):
    """A copy of the folder that a test may damage."""
    return Path(shutil.copytree(noah_folder, tmp_path / "vtab-1k" / "eurosat"))


def noah_axes(place, tmp_path, *more):
    overrides = ["task=eurosat", f"task.num_test={NUM_TEST}", "data=noah", f"data.dir={place}", *more]
    config = config_of(*overrides, f"data.cache={tmp_path / 'store'}")
    return instantiate(config, "task"), instantiate(config, "data")


def test_every_task_of_the_suite_has_a_folder_in_noahs_layout():
    folders = OmegaConf.load(CONFIGS / "data" / "noah.yaml").folders
    assert sorted(folders) == TASKS
    assert len(set(folders.values())) == len(TASKS)


def test_noahs_lists_are_read_in_order_with_their_lineage_and_without_a_proof(noah_folder, tmp_path):
    task, source = noah_axes(noah_folder.parent, tmp_path)
    assert source.lineage == "noah_jpeg"
    found = list(source.examples(task, "val200"))
    assert [one.label for one in found] == [index % 10 for index in range(200)]
    assert found[7].image == (noah_folder / "images" / "val200" / "000007.jpg").read_bytes()
    assert task.fingerprint is not None  # TFDS could prove it, numbers for names cannot
    assert cache.split_check(task, source, **LOOK) == {"verdict": "no names", "fingerprint": None}
    split = cache.load_split(task, "test", source, **LOOK)
    expected = Image.open(noah_folder / "images" / "test" / "000003.jpg").resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(split.images[3], np.asarray(expected))


def test_a_dump_that_is_scaled_already_is_not_scaled_again(noah_folder, tmp_path):
    task, source = noah_axes(noah_folder.parent, tmp_path, "task.pixel_scale=255")
    split = cache.load_split(task, "val200", source, **LOOK)
    expected = Image.open(noah_folder / "images" / "val200" / "000000.jpg").resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(split.images[0], np.asarray(expected))


def test_a_tuning_run_needs_no_test_list_and_a_final_one_names_it(mine, tmp_path):
    (mine / "test.txt").unlink()
    task, source = noah_axes(mine.parent, tmp_path)
    assert len(list(source.examples(task, "train800"))) == 800
    with pytest.raises(UserError, match=r"test\.txt cannot be read .*get it again"):
        list(source.examples(task, "test"))


def test_the_order_of_train800val200_and_its_own_copies_are_free(mine, tmp_path):
    file = mine / "train800val200.txt"
    file.write_text("\n".join(file.read_text().splitlines()[::-1]))
    task, source = noah_axes(mine.parent, tmp_path)
    assert len(list(source.examples(task, "val200"))) == 200


def other_label(folder):
    line = (folder / "train800val200.txt").read_text()
    (folder / "train800val200.txt").write_text(line.replace("000000.jpg 0\n", "000000.jpg 1\n"))


def other_image(folder):
    (folder / "images" / "train800val200" / "000999.jpg").write_bytes(jpeg(seed=99999))


def shorter_joined(folder):
    drop_last(folder / "train800val200.txt")


def drop_last(file):
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")


def test_image_in_training(folder):
    with (folder / "test.txt").open("a") as file:
        file.write("images/val200/000004.jpg 4\n")


def same_twice(folder):
    with (folder / "test.txt").open("a") as file:
        file.write("images/test/./000004.jpg 4\n")


test_image_in_training.__test__ = False

FAULTS = {
    "joined holds another label": (other_label, ["train800val200.txt is not", "lacks 1 of their 1000"]),
    "joined holds another image": (other_image, ["train800val200.txt is not", "holds 1 others"]),
    "joined is shorter": (shorter_joined, ["train800val200.txt is not", "holds 0 others"]),
    "a test image in training": (
        test_image_in_training,
        ["test.txt", "images/val200/000004.jpg", "val200.txt already"],
    ),
    "an image twice": (same_twice, ["test.txt", "images/test/000004.jpg", "test.txt already"]),
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
    "one image less": (lambda folder: shorten(folder), ["holds 199 images", "says 200"]),
    "no folder": (shutil.rmtree, ["neither a folder eurosat nor eurosat.zip nor vtab-1k.zip", "as_noah_jpeg.py"]),
}


def append(folder, line):
    with (folder / "val200.txt").open("a") as file:
        file.write(line + "\n")


def shorten(folder):
    drop_last(folder / "val200.txt")
    drop_last(folder / "train800val200.txt")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_noahs_folder_is_named_and_nothing_is_kept(name, mine, tmp_path):
    damage, words = FAULTS[name]
    damage(mine)
    task, source = noah_axes(mine.parent, tmp_path)
    with pytest.raises(UserError) as caught:
        cache.load_split(task, "val200", source, **LOOK)
    for word in words:
        assert word in str(caught.value)
    assert not list((tmp_path / "store").rglob("*.npy"))


def test_a_task_without_a_folder_in_the_layout_is_named(tmp_path):
    task, source = noah_axes(tmp_path, tmp_path, "task.name=flowers")
    with pytest.raises(UserError, match=r"flowers has no folder in data\.folders.*data=folder"):
        list(source.examples(task, "val200"))


@pytest.mark.parametrize(
    ("name", "top"),
    [
        ("eurosat.zip", "eurosat/"),
        ("eurosat.zip", ""),
        ("vtab-1k.zip", "vtab-1k/eurosat/"),
        ("vtab-1k.tar.gz", "./eurosat/"),
        ("eurosat.tar", "eurosat/"),
    ],
)
def test_an_archive_of_the_task_is_unpacked_where_its_folder_is_absent(name, top, noah_folder, tmp_path):
    place = tmp_path / "vtab-1k"
    place.mkdir()
    content = {
        f"{top}{path.relative_to(noah_folder).as_posix()}": path.read_bytes()
        for path in noah_folder.rglob("*")
        if path.is_file() and "/test/" not in str(path)
    }
    stranger = {"dtd/train800.txt": b"images/0.jpg 0\n"} if top else {}
    pack(place / name, {**content, **stranger})
    task, source = noah_axes(place, tmp_path)
    assert len(list(source.examples(task, "train800"))) == 800
    (place / name).unlink()
    assert len(list(source.examples(task, "val200"))) == 200
    assert [path.name for path in place.iterdir()] == ["eurosat"]
    assert sorted(path.name for path in (place / "eurosat").iterdir()) == sorted(
        ["images", *(f"{part}.txt" for part in (*PART_SIZES, "train800val200"))]
    )


def test_an_archive_of_something_else_is_named(tmp_path):
    pack(tmp_path / "eurosat.zip", {"dtd/train800.txt": b""})
    task, source = noah_axes(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"eurosat\.zip holds no eurosat/train800\.txt"):
        list(source.examples(task, "train800"))


def pack(path, content):
    """An archive of files with the given names, as they are."""
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


LEAVING = ["../evil", "a/../../evil", "/evil", "..", "a/..", "C:/evil", "..\\evil", "\\evil", "a\\..\\..\\evil", "a\\b"]


@pytest.mark.parametrize("suffix", archive.SUFFIXES)
@pytest.mark.parametrize("name", LEAVING)
def test_a_path_that_leaves_the_target_is_refused_with_all_the_rest(name, suffix, tmp_path):
    place = tmp_path / "deep" / "place"
    place.mkdir(parents=True)
    path = place / f"packed{suffix}"
    pack(path, {"good": b"1", name: b"2"})
    for unpack in (lambda: archive.extract(path, place / "out", below=""), lambda: archive.file_names(path)):
        with pytest.raises(UserError, match="nothing was unpacked"):
            unpack()
    assert [one.name for one in tmp_path.rglob("*") if one.is_file()] == [path.name]
    assert not (place / "out").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind, tmp_path):
    with tarfile.open(tmp_path / "packed.tar", "w") as file:
        info = tarfile.TarInfo("inside")
        info.type, info.linkname = kind, "good"  # inside the target: refused all the same
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


def test_a_name_that_comes_twice_is_refused(tmp_path):
    pack(tmp_path / "packed.tar", {"a": b"1", "./a": b"2"})
    with pytest.raises(UserError, match=r"'\./a', twice"):
        archive.extract(tmp_path / "packed.tar", tmp_path / "out", below="")


@pytest.mark.parametrize("suffix", archive.SUFFIXES)
def test_a_damaged_archive_is_named_and_leaves_nothing(suffix, tmp_path):
    path = tmp_path / f"packed{suffix}"
    noise = np.random.default_rng(0).bytes(200_000)
    pack(path, {"a": noise, "b": noise})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no archive at all" * 100):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be unpacked"):
            archive.extract(path, tmp_path / "out", below="")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_an_archive_whose_bytes_were_changed_is_named(tmp_path):
    path = tmp_path / "packed.zip"
    pack(path, {"a": b"x" * 1000})
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be unpacked.*CRC"):
        archive.extract(path, tmp_path / "out", below="")
    assert not (tmp_path / "out").exists()


def test_only_what_lies_below_the_asked_folder_is_unpacked(tmp_path):
    pack(tmp_path / "packed.zip", {"x/a/1": b"1", "x/a/b/2": b"2", "x/ab/3": b"3", "4": b"4"})
    archive.extract(tmp_path / "packed.zip", tmp_path / "out", below="x/a")
    found = {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in (tmp_path / "out").rglob("[0-9]")}
    assert found == {"1": b"1", "b/2": b"2"}


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    pack(tmp_path / "packed.zip", {"a": b"1"})
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
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
    # the standard's luminance table at quality 75 begins so: (50 * 16 + 50) // 100 = 8
    assert tables[0][0] == 8


def test_real_eurosat_as_noah_jpeg_is_read_with_its_lineage_and_differs_a_little(eurosat_as_jpeg, shared, tmp_path):
    task, source = noah_axes(eurosat_as_jpeg.parent, tmp_path)
    config = config_of("task=eurosat", f"data.dir={shared / 'tfds'}", f"data.cache={tmp_path / 'store'}")
    lossless = cache.load_split(task, "val200", instantiate(config, "data"), size=64, interpolation="bicubic")
    dumped = cache.load_split(task, "val200", source, size=64, interpolation="bicubic")
    assert cache.split_check(task, source, **LOOK)["verdict"] == "no names"
    np.testing.assert_array_equal(dumped.labels, lossless.labels)
    difference = np.abs(dumped.images.astype(int) - lossless.images.astype(int)).mean()
    assert 0.5 < difference < 8  # gray levels: another lineage, the same images
    places = {split_folder(task, "val200", one, **LOOK).parent.name for one in (source, instantiate(config, "data"))}
    assert places == {"noah_jpeg", "tfds"}


def test_the_script_says_what_stands_in_its_way(eurosat_as_jpeg, shared, tmp_path):
    for words, said in [
        (["task=eurosat", "data.dir=nowhere", "data.download=false", "--out", tmp_path], "no prepared eurosat/rgb"),
        (["task=eurosaat", "--out", tmp_path], "eurosaat"),
        (["task=eurosat", f"data.dir={shared / 'tfds'}", "--out", eurosat_as_jpeg.parent], "exists already"),
    ]:
        done = script("as_noah_jpeg", *words)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_binary_task_is_scaled_before_it_is_encoded_and_gray_becomes_color(toy, tmp_path):
    config = config_of(*toy, "task.pixel_scale=255")
    task, source = instantiate(config, "task"), BinarySource(cache=str(tmp_path / "store"))
    noah_jpeg.write_folder(tmp_path / "noah" / "eurosat", task, source, ["train800", "val200"])
    with Image.open(tmp_path / "noah" / "eurosat" / "images" / "val200" / "000000.jpg") as picture:
        assert picture.mode == "RGB"
        assert np.asarray(picture).min() == 0
        assert np.asarray(picture).max() == 255
    task, source = noah_axes(tmp_path / "noah", tmp_path, "task.pixel_scale=255")
    split = cache.load_split(task, "val200", source, **LOOK)
    np.testing.assert_allclose(split.images[0], 255 * np.repeat(BINARY, 3, axis=2), atol=2)


BINARY = np.kron([[0, 1], [1, 0]], np.ones((8, 8), dtype=np.uint8))[..., None].astype(np.uint8)


class BinarySource:
    lineage = "toy"

    def __init__(self, cache):
        self.cache = cache

    def examples(self, task, part):
        for index in range(task.size_of(part)):
            yield noah.Example(BINARY, index % 10, None)


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
    """1030 files of which the content is of no interest, as SPLIT/CLASS/N.png."""
    place = tmp_path / "own"
    for split, count in SHAPES.items():
        for kind in KINDS:
            (place / split / kind).mkdir(parents=True)
        for index in range(count):
            (place / split / KINDS[index % 3] / f"{index:03d}.png").write_bytes(f"{split} {index}".encode())
    return place


def own_axes(place, *more):
    config = config_of(*OWN, f"data.dir={place}", f"data.cache={place / 'store'}", *more)
    return instantiate(config, "task"), instantiate(config, "data")


def as_table(place, *, change=lambda rows: rows, header=("path", "label", "split")):
    rows = [
        (str(path.relative_to(place)), path.parent.name, path.parent.parent.name) for path in place.rglob("[0-9]*.png")
    ]
    with (place / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *change(sorted(rows))])
    return "data.table=images.csv"


def test_an_image_folder_is_read_in_the_order_of_its_names_with_classes_by_name(own_folder):
    (own_folder / "train" / "disc" / "notes.txt").write_text("no image")
    task, source = own_axes(own_folder)
    assert source.lineage == "own"
    found = list(source.examples(task, "test"))
    assert [one.name for one in found[:2]] == ["disc/000.png", "disc/003.png"]
    assert [one.label for one in found] == [0] * 10 + [1] * 10 + [2] * 10
    assert found[10].image == b"test 1"
    assert [len(list(source.examples(task, part))) for part in ("train800", "val200")] == [800, 200]


def test_a_table_gives_the_same_as_the_folders_in_its_own_order(own_folder):
    task, source = own_axes(own_folder, as_table(own_folder, change=lambda rows: rows[::-1]))
    from_table = list(source.examples(task, "val200"))
    task, source = own_axes(own_folder)
    from_folders = list(source.examples(task, "val200"))
    assert [(one.image, one.label) for one in from_table[::-1]] == [(one.image, one.label) for one in from_folders]


def test_classes_are_the_definitions_and_not_those_that_a_split_shows(own_folder):
    named = "data.classes=[square,star,ring,disc]"
    with pytest.raises(UserError, match=r"4 classes.*task\.num_classes=3"):
        list(own_source(own_folder, named, part="test"))
    found = own_source(own_folder, named, "task.num_classes=4", part="test")
    assert {one.name.partition("/")[0]: one.label for one in found} == {"star": 1, "ring": 2, "disc": 3}
    shutil.rmtree(own_folder / "test" / "disc")
    found = own_source(own_folder, "task.num_test=20", part="test")
    assert sorted({one.label for one in found}) == [1, 2]


def own_source(place, *more, part):
    task, source = own_axes(place, *more)
    return list(source.examples(task, part))


def test_labels_that_are_numbers_are_sorted_as_numbers(own_folder):
    names = {"disc": "10", "ring": "9", "star": "2"}
    table = as_table(own_folder, change=lambda rows: [(path, names[kind], split) for path, kind, split in rows])
    found = own_source(own_folder, table, part="test")
    assert {one.name.split("/")[1]: one.label for one in found} == {"disc": 2, "ring": 1, "star": 0}


OWN_FAULTS = {
    "split absent": (lambda place: shutil.rmtree(place / "test"), ["no folder", "/test", "data.table=FILE"]),
    "image in no class": (
        lambda place: (place / "train" / "x.png").write_bytes(b""),
        ["x.png lies in no class", "CLASS/"],
    ),
    "too few": (
        lambda place: (place / "val" / "disc" / "000.png").unlink(),
        ["'val'", "199 images", "needs 200", "task.num_test"],
    ),
    "class too many": (
        lambda place: (place / "test" / "ring").rename(place / "test" / "rung"),
        ["4 classes", "task.num_classes=3", "data.classes"],
    ),
    "class unknown": (lambda place: "data.classes=[disc,ring,cube]", ["'star'", "data.classes", "add it there"]),
    "class named twice": (lambda place: "data.classes=[disc,ring,star,star]", ["3 classes", "once"]),
    "class of a name with no such number": (lambda place: "data.classes=[disc,ring]", ["'star'", "data.classes"]),
    "same file in two splits": (
        lambda place: link(place / "test" / "disc" / "000.png", place / "train" / "disc" / "000.png"),
        ["in split 'train'", "again in 'test'", "remove one"],
    ),
    "table absent": (lambda place: "data.table=none.csv", ["none.csv cannot be read", "No such file", "data.table"]),
    "table lacks a column": (
        lambda place: as_table(place, header=("path", "class", "split")),
        ["images.csv lacks the column label", "path,label,split"],
    ),
    "table is not text": (lambda place: noise_in(place), ["noise.csv cannot be read"]),
    "table is empty": (lambda place: as_table(place, header=(), change=lambda rows: []), ["lacks the column path"]),
    "table has a cell less": (
        lambda place: as_table(place, change=lambda rows: [rows[0][:2], *rows[1:]]),
        ["images.csv line 2", "is missing"],
    ),
    "table names another split": (
        lambda place: as_table(place, change=lambda rows: [(*rows[0][:2], "dev"), *rows[1:]]),
        ["images.csv line 2", "'dev'", "train, val, test"],
    ),
    "table names a file twice": (
        lambda place: as_table(place, change=lambda rows: [*rows, (*rows[-1][:2], "test")]),
        ["again in 'test'"],
    ),
    "table names no such file": (
        lambda place: as_table(place, change=lambda rows: [(f"{rows[-1][0]}x", *rows[-1][1:]), *rows[:-1]]),
        ["pngx cannot be read"],
    ),
}


def link(path, target):
    path.unlink()
    path.symlink_to(target)


def noise_in(place):
    (place / "noise.csv").write_bytes(b"\xff\xfe\0\xd8")
    return "data.table=noise.csv"


@pytest.mark.parametrize("name", OWN_FAULTS)
def test_a_fault_in_ones_own_data_is_named_with_the_way_out(name, own_folder):
    damage, words = OWN_FAULTS[name]
    override = damage(own_folder)
    more = [override] if isinstance(override, str) else []
    with pytest.raises(UserError) as caught:
        [own_source(own_folder, *more, part=part) for part in ("train800", "val200", "test")]
    for word in words:
        assert word in str(caught.value)


def test_the_worked_example_of_the_docs_runs_as_it_stands(tmp_path):
    text = (ROOT / "docs" / "data_of_your_own.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.M | re.S)
    [(_, draw), *_] = [block for block in blocks if block[0] == "python"]
    [yaml] = [body for kind, body in blocks if kind == "yaml"]
    commands = re.findall(r"^    (python .*)$", text, flags=re.M)
    assert len(commands) >= 3

    # a checkout of its own, so that the YAML can lie where the text says
    for name in ("configs", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "run.py", tmp_path)
    (tmp_path / "draw_shapes.py").write_text(draw)
    (tmp_path / "configs" / "task" / "own").mkdir()
    (tmp_path / "configs" / "task" / "own" / "shapes.yaml").write_text(yaml)
    printed = [in_checkout(tmp_path, command) for command in commands]
    assert any("of 60 correct" in text for text in printed)
    table = next((tmp_path / "results" / "tables").glob("own-*.md")).read_text()
    assert "Shapes" in table
    assert "data lineage own" in table


def in_checkout(folder, command):
    done = subprocess.run(
        [sys.executable, *command.split()[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**__import__("os").environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
