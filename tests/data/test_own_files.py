"""The user's own files: what is an image, how a table is read, and what the cache notices when they change."""

import csv
import io
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moppa.data import cache, file_digests, write_split
from moppa.data.check import split_check
from moppa.data.folder import FolderSource
from moppa.data.folder_files import list_folders
from moppa.data.folder_table import list_table
from moppa.data.images import ImageFormat
from moppa.data.noah import NoahSource
from moppa.data.prepare import ensure_prepared
from moppa.data.split import split_folder
from moppa.data.task import SPLITS, Task
from moppa.utils.errors import UserError

IMAGE_FORMAT = ImageFormat(8, "bicubic")
NUM_IMAGES = {"train": 6, "val": 4, "test": 5}
SPLIT_NAMES = ["train", "val", "test"]


@pytest.fixture(autouse=True)
def small_splits(monkeypatch):
    """Makes all splits small, so that a test takes milliseconds."""
    monkeypatch.setattr(Task, "num_images", lambda task, split: NUM_IMAGES[task.splits[split]])


def own_task(**changes):
    settings = {
        "name": "shapes", "version": 1, "suite": "own", "group": "natural", "column": 1, "title": "Shapes",
        "builder": "own", "splits": dict(zip(SPLITS, SPLIT_NAMES, strict=True)), "num_test": 5, "num_classes": 2,
        "pixel_scale": 1, "label": label, "name_key": None, "fingerprint": None,
    }  # fmt: skip
    return Task(**settings | changes)


def label(example):
    return example["label"]


def source_of(folder, **changes):
    source = FolderSource(name="folder", dir=str(folder), cache=str(folder.parent / "cache"), table=None, classes=None)
    return replace(source, **changes)


def draw(folder, *, first=0):
    """Draws the images of all splits in two classes, each of another color."""
    color = first
    for split, count in NUM_IMAGES.items():
        for index in range(count):
            file = folder / split / "ab"[index % 2] / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (color, 3 * color, 7)).save(file)
            color += 1
    return folder


@pytest.fixture
def folder(tmp_path):
    return draw(tmp_path / "images")


def load(folder, split="test", **changes):
    return cache.load_split(own_task(), split, source_of(folder, **changes), IMAGE_FORMAT)


def colors(split):
    return split.images[:, 0, 0, 0].tolist()


def check(folder, **changes):
    source = source_of(folder, **changes)
    return split_check(own_task(), source, cache.prepare_splits(own_task(), SPLITS, source, IMAGE_FORMAT))


# which files are images


def names_of(folder):
    return [entry.name for entry in list_folders(folder, ["test"]).entries]


def test_hidden_files_and_folders_are_no_data(folder):
    before = names_of(folder)
    (folder / "test" / "a" / "._0.png").write_bytes(b"\0\5\x16\7")
    shutil.copytree(folder / "test" / "a", folder / "test" / ".ipynb_checkpoints")
    shutil.copytree(folder / "test" / "a", folder / "test" / "a" / ".thumbnails")
    listing = list_folders(folder, ["test"])
    assert [entry.name for entry in listing.entries] == before
    assert listing.passed_over == {"test": []}


def test_a_linked_folder_is_a_folder_and_a_circle_of_links_ends(folder):
    before = names_of(folder)
    (folder / "test" / "a").rename(folder / "elsewhere")
    (folder / "test" / "a").symlink_to(folder / "elsewhere")
    (folder / "elsewhere" / "up").symlink_to(folder / "test")
    assert names_of(folder) == before


def test_the_same_folder_under_two_names_is_refused(folder):
    (folder / "test" / "c").symlink_to(folder / "test" / "a")
    with pytest.raises(UserError, match="in split 'test' and again in 'test'"):
        source_of(folder).content(own_task(num_classes=3), "test")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.rename(file.with_suffix(".HEIC")), r"1 file was passed over.*0\.HEIC \(Pillow reads no"),
        (lambda file: file.rename(file.with_suffix("")), r"a/0 \(it has no suffix"),
        (lambda file: (file.unlink(), file.symlink_to("/nowhere/0.png")), r"a/0\.png \(a link to nothing"),
        (lambda file: (file.unlink(), os.mkfifo(file)), r"a/0\.png \(not a file"),
    ],
)
def test_a_split_that_is_short_of_images_names_a_file_that_was_passed_over(folder, damage, message):
    damage(folder / "test" / "a" / "0.png")
    with pytest.raises(UserError, match=f"holds 4 images, the task needs 5.*{message}"):
        load(folder)


def test_files_that_are_passed_over_are_counted_once(folder, capfd):
    for name in ("Thumbs.db", "notes.txt", "video.mov"):
        (folder / "test" / "a" / name).touch()
    load(folder)
    load(folder)
    text = capfd.readouterr().err
    assert text.count("3 files were passed over, for example") == 1


@pytest.mark.parametrize("part", ["file", "class"])
def test_names_that_are_not_utf8_are_names(folder, part):
    for split in SPLIT_NAMES:
        old = folder / split / "a"
        if part == "file":
            (old / "0.png").rename(old / os.fsdecode(b"0_\xe9.png"))
        else:
            old.rename(old.with_name(os.fsdecode(b"d\xeesc")))
    first, again = check(folder), check(folder)
    assert first == again
    assert len(first["fingerprint"]["val200_sorted"]) == 64


# tables

ROWS = [["a/0.png", "a", "test"], ["b/1.png", "b", "test"]]
HEADER = ["path", "label", "split"]


def written(rows, newline="\r\n", **options):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=newline, **options).writerows(rows)
    return text.getvalue()


PLAIN = written([HEADER, *ROWS])
EDITORS = {
    "plain": PLAIN.encode(),
    "byte order mark": PLAIN.encode("utf-8-sig"),
    "UTF-16": PLAIN.encode("utf-16"),
    "Unix lines": written([HEADER, *ROWS], "\n").encode(),
    "old Mac lines": PLAIN.replace("\r\n", "\r").encode(),
    "no last line end": PLAIN.rstrip().encode(),
    "semicolons": written([HEADER, *ROWS], delimiter=";").encode(),
    "tabs": written([HEADER, *ROWS], delimiter="\t").encode(),
    "quotes": written([HEADER, *ROWS], quoting=csv.QUOTE_ALL).encode(),
    "blank lines": PLAIN.replace("\r\n", "\r\n\r\n").encode(),
    "blank first lines": b"\r\n,,\r\n" + PLAIN.encode(),
    "empty cells": (PLAIN + ",,\r\n,,\r\n").encode(),
    "spaces": b"path, label, split\na/0.png, a, test\nb/1.png, b , test \n",
    "another case and order": b"Split,Path,Label\ntest,a/0.png,a\ntest,b/1.png,b\n",
    "another column": written([["id", *HEADER], ["1", *ROWS[0]], ["2", *ROWS[1]]]).encode(),
}


@pytest.mark.parametrize("name", EDITORS)
def test_a_table_of_any_editor_is_read(name, tmp_path):
    (tmp_path / "images.csv").write_bytes(EDITORS[name])
    entries = list_table(tmp_path / "images.csv", ["test"]).entries
    assert [[entry.name, entry.label, entry.split] for entry in entries] == ROWS


def test_paths_of_windows_and_names_with_separators_are_read(folder):
    (folder / "test" / "a" / "0.png").rename(folder / "test" / "a" / "0, (1).png")
    (folder / "images.csv").write_text('path,label,split\n"test/a/0, (1).png",a,test\ntest\\b\\1.png,b,test\n')
    entries = list_table(folder / "images.csv", ["test"]).entries
    assert all(entry.file.is_file() for entry in entries)


BAD_TABLES = {
    "empty": (b"", "is empty"),
    "a byte order mark alone": (b"\xef\xbb\xbf", "is empty"),
    "blank": (b"\r\n\r\n", "is empty"),
    "no column": (b"path,class,split\n", "lacks the column label: line 1 must name path,label,split"),
    "Latin-1": ("path,label,split\n\ne/é.png,a,test\n".encode("latin-1"), "line 3 is not utf-8 text; save it as CSV"),
    "a cell less": (b"path,label,split\n\n\na/0.png,a\n", "line 4: 2 cells, but the header has 3"),
    "a comma in a path": (b"path,label,split\na,0.png,a,test\n", "line 2: 4 cells.*needs quotes"),
    "no label": (b"path,label,split\n\na/0.png,,test\n", "line 3: a path, a label or a split is missing"),
    "another split": (b'path,label,split\n"a\n0.png",a,test\na/1.png,a,dev\n', "line 4: split 'dev'"),
    "an open quote": (b'path,label,split\n"a/0.png,a,test\n', "line 2 cannot be read.*correct its quotes"),
    "text after a quote": (b'path,label,split\n"a"/0.png,a,test\n', "line 2 cannot be read.*correct its quotes"),
    "a zero byte": (b"path,label,split\na/\x000.png,a,test\n", "line 2"),
    "a folder": (None, "cannot be read.*directory.*data.table=FILE"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_table_that_cannot_be_read_is_named_with_its_line(name, tmp_path):
    content, message = BAD_TABLES[name]
    if content is None:
        (tmp_path / "images.csv").mkdir()
    else:
        (tmp_path / "images.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"images\.csv.*{message}"):
        list_table(tmp_path / "images.csv", ["test"])


# what the cache knows about its source


def test_another_folder_never_gets_the_images_of_the_first(folder, tmp_path):
    other = draw(tmp_path / "other", first=100)
    assert colors(load(folder)) == [10, 12, 14, 11, 13]
    assert colors(load(other)) == [110, 112, 114, 111, 113]
    assert colors(load(folder)) == [10, 12, 14, 11, 13]
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        load(tmp_path / "nowhere")


def test_a_copy_of_the_folder_is_not_prepared_again(folder, tmp_path, monkeypatch):
    load(folder)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    monkeypatch.setattr(write_split, "resize_rgb", lambda *_: pytest.fail("prepared again"))
    assert colors(load(copy, cache=source_of(folder).cache)) == [10, 12, 14, 11, 13]


def change_pixels(folder):
    file = folder / "test" / "a" / "0.png"
    before = file.stat()
    Image.new("RGB", (8, 8), (99, 30, 7)).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp -p` does


CHANGES = {
    "a pixel": (change_pixels, {}, [99, 12, 14, 11, 13], [0, 0, 0, 1, 1]),
    "a label": (
        lambda folder: (folder / "test" / "a" / "0.png").rename(folder / "test" / "b" / "0.png"),
        {},
        [12, 14, 10, 11, 13],
        [0, 0, 1, 1, 1],
    ),
    "the order of the classes": (lambda _: None, {"classes": ["b", "a"]}, [10, 12, 14, 11, 13], [1, 1, 1, 0, 0]),
    "a name": (
        lambda folder: (folder / "test" / "a" / "0.png").rename(folder / "test" / "a" / "9.png"),
        {},
        [12, 14, 10, 11, 13],
        [0, 0, 0, 1, 1],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_source_is_noticed(name, folder):
    change, settings, pixels, labels = CHANGES[name]
    load(folder)
    change(folder)
    split = load(folder, **settings)
    assert (colors(split), split.labels.tolist()) == (pixels, labels)


def test_a_changed_or_missing_table_is_noticed(folder):
    rows = [(f"{path.relative_to(folder)}", path.parent.name, path.parts[-3]) for path in sorted(folder.rglob("*.png"))]
    table = folder / "images.csv"
    table.write_text(written([HEADER, *rows]))
    assert load(folder, table="images.csv").labels.tolist() == [0, 0, 0, 1, 1]
    table.write_text(written([HEADER, *[(path, {"a": "b", "b": "a"}[kind], split) for path, kind, split in rows]]))
    assert load(folder, table="images.csv").labels.tolist() == [1, 1, 1, 0, 0]
    table.unlink()
    with pytest.raises(UserError, match=r"images\.csv cannot be read"):
        load(folder, table="images.csv")


def test_folders_or_the_table_name_the_classes_in_the_order_of_their_labels(folder):
    assert source_of(folder).class_names(own_task()) == ["a", "b"]
    assert source_of(folder, classes=["b", "a"]).class_names(own_task()) == ["b", "a"]
    assert source_of(folder).class_names(own_task(label=lambda example: 1 - example["label"])) == ["b", "a"]
    assert source_of(folder).class_names(own_task(label=lambda _: 0)) == ["a, b"]
    rows = [(f"{path.relative_to(folder)}", f"<{path.parent.name}>", path.parts[-3]) for path in folder.rglob("*.png")]
    (folder / "images.csv").write_text(written([HEADER, *rows]))
    source = source_of(folder, table="images.csv")
    folders = cache.prepare_splits(own_task(), SPLITS, source, IMAGE_FORMAT)
    assert split_check(own_task(), source, folders)["classes"] == ["<a>", "<b>"]


def test_an_interrupted_preparation_starts_over_if_the_source_changed(folder, monkeypatch):
    monkeypatch.setattr(write_split, "CHUNK_BYTES", 2 * IMAGE_FORMAT.image_bytes)
    append_chunk = write_split.append_chunk

    def append_and_stop(*args):
        append_chunk(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(write_split, "append_chunk", append_and_stop)
    with pytest.raises(KeyboardInterrupt):
        load(folder)
    monkeypatch.setattr(write_split, "append_chunk", append_chunk)
    change_pixels(folder)
    assert colors(load(folder)) == [99, 12, 14, 11, 13]


def test_images_that_change_while_they_are_read_are_refused(folder, monkeypatch):
    examples = FolderSource.examples

    def changing(self, task, split):
        yield from examples(self, task, split)
        change_pixels(folder)

    monkeypatch.setattr(FolderSource, "examples", changing)
    with pytest.raises(UserError, match="images of test changed while they were read; run it again"):
        load(folder)
    assert not list((folder.parent / "cache").rglob("images.npy"))


def test_files_are_read_again_only_if_their_size_or_times_changed(folder, monkeypatch):
    source, read = source_of(folder), []
    monkeypatch.setattr(file_digests, "SETTLED_NS", 0)
    digest_of = file_digests.digest_of
    monkeypatch.setattr(file_digests, "digest_of", lambda file: read.append(file.name) or digest_of(file))
    time.sleep(0.02)  # a tick of the file system's clock
    first = source.content(own_task(), "test")
    assert len(read) == 5
    assert source.content(own_task(), "test") == first
    assert len(read) == 5
    os.utime(folder / "test" / "b" / "1.png")
    assert source.content(own_task(), "test") == first
    assert read[5:] == ["1.png"]
    change_pixels(folder)
    assert source.content(own_task(), "test") != first
    assert read[6:] == ["0.png"]


def test_files_that_changed_just_now_are_not_remembered(folder):
    source_of(folder).content(own_task(), "test")
    [memory] = (folder.parent / "cache").rglob("test-files-*.json")
    assert memory.read_text() == "{}"


def test_a_damaged_memory_is_ignored(folder):
    first = source_of(folder).content(own_task(), "test")
    [memory] = (folder.parent / "cache").rglob("test-files-*.json")
    for text in ("{", "[]", ""):
        memory.write_text(text)
        assert source_of(folder).content(own_task(), "test") == first


def test_noahs_folder_is_known_by_its_content_too(folder, tmp_path):
    noah = tmp_path / "noah"
    shutil.copytree(folder / "train", noah / "shapes" / "images")
    for name in ("train800", "val200", "test"):
        lines = [f"images/{path} {'ab'.index(path[0])}" for path in sorted(map(str, paths_below(noah)))]
        (noah / "shapes" / f"{name}.txt").write_text("\n".join(lines))
    source = NoahSource(
        name="noah", dir=str(noah), cache=str(tmp_path / "cache"), collection="x", folders={"shapes": "shapes"}
    )
    first = source.content(own_task(), "test")
    assert source.content(own_task(), "test") == first
    lists = noah / "shapes" / "test.txt"
    lists.write_text(lists.read_text().replace("0.png 0", "0.png 1"))
    relabelled = source.content(own_task(), "test")
    assert relabelled != first
    Image.new("RGB", (8, 8)).save(noah / "shapes" / "images" / "a" / "0.png")
    assert source.content(own_task(), "test") not in (first, relabelled)


def paths_below(noah):
    root = noah / "shapes" / "images"
    return [path.relative_to(root) for path in root.rglob("*.png")]


def test_a_folder_of_an_older_format_is_neither_read_nor_removed(folder, monkeypatch):
    monkeypatch.setattr("moppa.data.split.FORMAT", 2)
    old = ensure_prepared(own_task(), "test", source_of(folder), IMAGE_FORMAT)
    monkeypatch.undo()
    monkeypatch.setattr(Task, "num_images", lambda task, split: NUM_IMAGES[task.splits[split]])
    assert split_folder(own_task(), "test", source_of(folder), IMAGE_FORMAT) != old
    assert colors(load(folder)) == [10, 12, 14, 11, 13]
    assert (old / "images.npy").exists()


# images that are in two splits


def test_an_image_of_the_users_that_is_in_two_splits_is_an_error(folder):
    pixels = np.asarray(Image.open(folder / "train" / "b" / "3.png"))
    Image.fromarray(pixels).save(folder / "test" / "a" / "2.png", compress_level=0)  # the same pixels in other bytes
    with pytest.raises(UserError) as error:
        check(folder)
    text = str(error.value)
    assert "1 of 5 images of test are in train800, too: test/a/2.png has the same pixels as train/b/3.png" in text
    assert "data.allow_shared_images=true" in text
    shared = check(folder, allow_shared_images=True)["shared_images"]
    assert shared == {"val200 in train800": 0, "test in train800": 1, "test in val200": 0}


def test_images_are_compared_at_their_original_size(folder):
    """Two images that are equal after resizing are not the same."""
    values = np.zeros((16, 16, 3), np.uint8)
    values[0, 0] = 1
    Image.fromarray(values).save(folder / "train" / "b" / "3.png")
    Image.fromarray(values * 0).save(folder / "test" / "a" / "2.png")
    assert set(check(folder)["shared_images"].values()) == {0}


def test_a_digest_of_the_test_split_is_checked(folder):
    found = check(folder)
    assert found["test"] == "no digest"
    for name in ("names", "pixels"):
        task = own_task(test_sha256={name: found["test_sha256"][name]})
        source = source_of(folder)
        folders = cache.prepare_splits(task, SPLITS, source, IMAGE_FORMAT)
        assert split_check(task, source, folders)["test"] == "official"
        other = replace(task, test_sha256={name: "0" * 64})
        with pytest.raises(UserError, match=rf"test images are not the official ones \(test_sha256\.{name} is"):
            split_check(other, source, folders)
