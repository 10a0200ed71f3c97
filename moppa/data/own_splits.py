"""Divides the user's images into splits, class by class, and writes a CSV and the YAML of a task for them."""

import hashlib
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from moppa.data.folder_files import files_below, readable_suffixes, reason_to_pass
from moppa.data.folder_table import file_of, iter_rows, read_text
from moppa.utils.errors import SettingError, UserError

SPLITS = ("train", "val", "test")


class Image(NamedTuple):
    """An image of the user: its path as the CSV names it, its class, and the sha256 of its file."""

    path: str
    label: str
    sha256: str


def find_images(root: Path, table: Path | None) -> list[Image]:
    """Returns the images CLASS/IMAGE below a folder, or those of a CSV with the columns path and label.

    Of files with equal bytes the first is kept.

    Raises:
        UserError: if there are none, a file cannot be read, or two files with equal bytes have different classes.
    """
    listed = listed_in_folders(root) if table is None else listed_in_table(table)
    images: dict[str, Image] = {}
    for file, path, label in listed:
        try:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror or error}); correct its path") from error
        first = images.setdefault(digest, Image(path, label, digest))
        if first.label != label:
            raise UserError(f"{path} is the same file as {first.path}, with another class: remove one of the two")
    if not images:
        raise UserError(f"there are no images in {table or root}: put them in {root}/CLASS/, or name a CSV")
    return list(images.values())


def listed_in_folders(root: Path) -> list[tuple[Path, str, str]]:
    """Returns the file, path and class of the images CLASS/IMAGE, sorted by path."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: put the images in {root}/CLASS/")
    suffixes = readable_suffixes()
    found = [(parts, file) for parts, file in files_below(os.fspath(root)) if not reason_to_pass(file, suffixes)]
    found = [(parts, file) for parts, file in sorted(found, key=lambda entry: entry[0]) if len(parts) > 1]
    return [(Path(file.path), "/".join(parts), parts[0]) for parts, file in found]


def listed_in_table(table: Path) -> list[tuple[Path, str, str]]:
    """Returns the file, path and class of the rows of a CSV, in order."""
    rows = iter_rows(table, read_text(table))
    number, header = next(rows, (1, []))
    names = [name.strip().lower() for name in header]
    if missing := [name for name in ("path", "label") if name not in names]:
        raise UserError(f"{table} lacks the column {missing[0]}: line {number} must name path and label")
    listed = []
    for number, cells in rows:
        if len(cells) != len(names):
            raise UserError(f"{table} line {number}: {len(cells)} cells, but the header has {len(names)}; correct it")
        path, label = (cells[names.index(name)].strip() for name in ("path", "label"))
        listed.append((file_of(table, number, path), path, label))
    return listed


def split_images(images: Sequence[Image], *, val: float, test: float, seed: int) -> dict[str, list[Image]]:
    """Returns the images of train, val and test. `val` and `test` are numbers of images, or fractions below 1.

    Every class is in every split in the same proportion, as far as it has enough images.

    Raises:
        SettingError: if a number is wrong or leaves nothing to train on.
    """
    counts = {"test": number_of("test", test, len(images)), "val": number_of("val", val, len(images))}
    if sum(counts.values()) >= len(images):
        raise SettingError(
            "val", f"={val:g} and test={test:g} leave none of {len(images)} images to train on: lower them"
        )
    order = shuffled_by_class(images, seed)
    splits = {}
    for name, count in counts.items():
        splits[name], order = order[:count], order[count:]
    return {"train": order, "val": splits["val"], "test": splits["test"]}


def fold_images(images: Sequence[Image], *, folds: int, seed: int) -> list[dict[str, list[Image]]]:
    """Returns the splits of each fold of a cross-validation: one part is test, the next is val, the others are train.

    Raises:
        SettingError: if there are fewer than three folds or more folds than images.
    """
    if not 3 <= folds <= len(images):
        raise SettingError("folds", f"={folds}: it must be from 3 to the number of images, {len(images)}")
    order = shuffled_by_class(images, seed)
    parts = [order[part::folds] for part in range(folds)]
    return [
        {
            "train": [image for part in range(2, folds) for image in parts[(fold + part) % folds]],
            "val": parts[(fold + 1) % folds],
            "test": parts[fold],
        }
        for fold in range(folds)
    ]


def number_of(name: str, value: float, total: int) -> int:
    """Returns a number of images, from a number of at least 1 or from a fraction of all."""
    count = round(value * total) if 0 < value < 1 else value
    if count < 1 or count != int(count):
        raise SettingError(name, f"={value:g}: it must be a number of images, or a fraction of them below 1")
    return int(count)


def shuffled_by_class(images: Sequence[Image], seed: int) -> list[Image]:
    """Returns the images in an order in which every part has each class in about the same proportion.

    The order depends on the seed and the files' content, not on their names or number.
    """
    by_class: dict[str, list[Image]] = {}
    for image in sorted(images, key=lambda image: image.sha256):
        by_class.setdefault(image.label, []).append(image)
    generator = random.Random(seed)
    spread: list[tuple[float, Image]] = []
    for label in sorted(by_class):
        generator.shuffle(by_class[label])
        size = len(by_class[label])
        spread += [((index + generator.random()) / size, image) for index, image in enumerate(by_class[label])]
    return [image for _, image in sorted(spread, key=lambda entry: entry[0])]


def csv_lines(splits: Mapping[str, Sequence[Image]]) -> list[tuple[str, str, str]]:
    """Returns the lines of the CSV: a header, then the images of all splits, sorted by path."""
    lines = [(image.path, image.label, name) for name, images in splits.items() for image in images]
    return [("path", "label", "split"), *sorted(lines)]


def task_yaml(name: str, suite: str, column: int, splits: Mapping[str, Sequence[Image]]) -> str:
    """Returns the YAML of a task, which selects `configs/data/NAME.yaml`.

    Raises:
        UserError: if all images are of one class.
    """
    classes = sorted({image.label for images in splits.values() for image in images})
    if len(classes) < 2:
        raise UserError(f"all images are of the class {classes[0]}: a task needs two")
    settings = {
        "_target_": "moppa.data.task.Task",
        "name": name,
        "version": 1,
        "suite": suite,
        "group": "natural",
        "column": column,
        "title": name,
        "builder": "own",
        "splits": {"train800": "train", "val200": "val", "test": "test"},
        "num_train": len(splits["train"]),
        "num_val": len(splits["val"]),
        "num_test": len(splits["test"]),
        "num_classes": len(classes),
        "pixel_scale": 1,
        "label": {"_target_": "moppa.data.labels.field", "_partial_": True, "key": "label"},
        "name_key": None,
        "fingerprint": None,
        "test_sha256": None,
    }
    head = f"# Your own images, divided by `moppa data split`\n# python run.py task={suite}/{name}\n"
    defaults = f"defaults:\n  - override /data@_global_.data: {name}\n  - _self_\n\n"
    return head + defaults + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def data_yaml(name: str, suite: str, table: Path) -> str:
    """Returns the YAML of the images of a task: the CSV in its folder."""
    head = f"# Your own images, divided by `moppa data split`\n# python run.py task={suite}/{name}\n"
    settings = {"defaults": ["folder", "_self_"], "dir": os.fspath(table.parent), "table": table.name}
    return head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
