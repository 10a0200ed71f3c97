"""Images and tables of the user with every kind of defect, and the error of each: rows of tests/test_bad_input.py."""

import csv
import io

import numpy as np
from PIL import Image, PngImagePlugin

NUM_IMAGES = {"train": 800, "val": 200, "test": 6}
KINDS = ("disc", "ring", "square")
OWN = [
    "data=folder",
    "data._target_=moppa.data.folder.FolderSource",
    "data.name=folder",
    "task=svhn",
    "task.splits={train800: train, val200: val, test: test}",
    "task.num_test=6",
    "task.num_classes=3",
    "data.dir=FILES/own",
]


def png(values, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def huge_text():
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    return png(np.zeros((4, 4), np.uint8), pnginfo=info)


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
IMAGES = {  # file: its content, and what the error says about it
    "truncated.png": (lambda: png(NOISE)[:2000], "truncated"),
    "truncated.jpg": (lambda: png(NOISE, "JPEG")[:800], "truncated"),
    "page.png": (lambda: b"<html>404</html>", "not an image of a format that Pillow reads"),
    "empty.png": (lambda: b"", "it is empty"),
    "bomb.png": (lambda: png(np.zeros((20_000, 20_000), bool)), "decompression bomb"),
    "text.png": (huge_text, "cannot be decoded"),
    "float.tif": (lambda: png(np.full((4, 4), 200, np.float32), "TIFF"), "float pixels are 200 to 200"),
    "integers.tif": (lambda: png(np.full((4, 4), 10**9, np.int32), "TIFF"), "32-bit integers"),
}
TABLES = {  # file: its content, and what the error says about it
    "empty.csv": (b"", "is empty: its first line must name path,label,split"),
    "mark.csv": (b"\xef\xbb\xbf", "is empty"),
    "header.csv": (b"path;class;split\r\n", "lacks the column label: line 1 must name"),
    "latin1.csv": ("path,label,split\r\n\r\né.png,disc,train\r\n".encode("latin-1"), "line 3 is not utf-8 text"),
    "short.csv": (b"\xef\xbb\xbfpath,label,split\n\na.png,disc\n", "line 3: 2 cells, but the header has 3"),
    "comma.csv": (b"path,label,split\na,b.png,disc,train\n", "line 2: 4 cells"),
    "label.csv": (b"path;label;split\r\n\r\n\r\na.png;;train\r\n", "line 4: a path, a label or a split is missing"),
    "split.csv": (b'path,label,split\n"a\nb.png",disc,train\nc.png,disc,dev\n', "line 4: split 'dev'"),
    "quote.csv": (b'path,label,split\n"a.png,disc,train\n', "line 2 cannot be read"),
}

DATA_CASES = {
    **{f"table {name}": ([*OWN, f"data.table={name}"], [f"/own/{name}", text]) for name, (_, text) in TABLES.items()},
    **{
        f"image {name}": ([*OWN, f"data.table=with_{name}.csv"], [f"/own/bad/{name}", text])
        for name, (_, text) in IMAGES.items()
    },
    "table absent": ([*OWN, "data.table=none.csv"], ["/own/none.csv cannot be read", "data.table=FILE"]),
    "image absent": ([*OWN, "data.table=with_none.png.csv"], ["/own/bad/none.png cannot be read", "put it there"]),
    "same image in two splits": (
        [*OWN, "data.table=with_copy.png.csv"],
        [
            "1 of 6 images of test are in train800",
            "test/bad/copy.png",
            "train/train/disc/000.png",
            "allow_shared_images",
        ],
    ),
    "same file twice": ([*OWN, "data.table=twice.csv"], ["in split 'train' and again in 'test'", "remove one"]),
    "folder of images absent": ([*OWN[:-1], "data.dir=FILES/none"], ["no folder", "/none/train", "data.dir"]),
    "images in no class": ([*OWN[:-1], "data.dir=FILES/flat"], ["/flat/train/a.png is in no class folder"]),
    "files that are no images": (
        [*OWN[:-1], "data.dir=FILES/heic"],
        ["holds 799 images, the task needs 800", "1 file was passed over", "031.HEIC", "Pillow reads no .heic"],
    ),
    "class that is true": ([*OWN, "data.classes=[true,ring,square]"], ["data.classes", "True is not the name"]),
    "class that is null": ([*OWN, "data.classes=[disc,null,square]"], ["data.classes", "None is not the name"]),
    "class that is a number": ([*OWN, "data.classes=[1e3,ring,square]"], ["data.classes", "1000.0 is not the name"]),
    "class that is not listed": ([*OWN, "data.classes=[disc,ring,cube]"], ["class 'square' is not in data.classes"]),
    "split that is a number": ([*OWN, "task.splits.test=2019"], ["task.splits.test=2019", "put it in quotes"]),
    "shared images neither": (
        [*OWN, "data.allow_shared_images=maybe"],
        ["allow_shared_images='maybe'", "true or false"],
    ),
    "another digest of the test split": (
        [*OWN, "task.test_sha256={pixels: abc}"],
        ["test images are not the official ones", "test_sha256.pixels", "task.test_sha256=null"],
    ),
    "unknown digest of the test split": (
        [*OWN, "task.test_sha256={labels: abc}"],
        ["task.test_sha256.labels", "names"],
    ),
}


def write_bad_data(folder):
    """Writes 1006 good images of three classes, bad ones, and tables that name either."""
    rows, own = [], folder / "own"
    for number, (split, kind, index) in enumerate(
        (split, KINDS[index % 3], index) for split, count in NUM_IMAGES.items() for index in range(count)
    ):
        file = own / split / kind / f"{index:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(np.full((2, 2, 3), (number % 256, number // 256, 90 * (index % 3)), np.uint8)))
        rows.append((file.relative_to(own).as_posix(), kind, split))
    (own / "bad").mkdir()
    (own / "bad" / "copy.png").write_bytes((own / "train" / "disc" / "000.png").read_bytes())
    for name, (make, _) in IMAGES.items():
        (own / "bad" / name).write_bytes(make())
    for name in (*IMAGES, "none.png", "copy.png"):
        write_table(own / f"with_{name}.csv", [*rows[:-1], (f"bad/{name}", *rows[-1][1:])])
    write_table(own / "twice.csv", [*rows[:-1], (rows[0][0], *rows[-1][1:])])
    for name, (content, _) in TABLES.items():
        (own / name).write_bytes(content)
    (folder / "flat" / "train").mkdir(parents=True)
    (folder / "flat" / "train" / "a.png").write_bytes(png(NOISE))
    (folder / "heic").symlink_to(folder / "own_with_heic")
    for split in NUM_IMAGES:
        (folder / "own_with_heic" / split).mkdir(parents=True)
        for kind in KINDS:
            (folder / "own_with_heic" / split / kind).symlink_to(own / split / kind)
    heic = folder / "own_with_heic" / "train" / "ring"
    heic.unlink()
    heic.mkdir()
    for file in (own / "train" / "ring").iterdir():
        (heic / (f"{file.stem}.HEIC" if file.stem == "031" else file.name)).symlink_to(file)


def write_table(file, rows):
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([("path", "label", "split"), *rows])
