"""Reads the splits of a fine-grained data set from the files beside its images, as rows of a CSV for `data=folder`.

These are VPT's published files, train.json, val.json and test.json, each with the class of every image, or else the
lists of CUB-200-2011 and NABirds: images.txt, image_class_labels.txt and train_test_split.txt.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path

from moppa.data.task import Task
from moppa.utils.errors import UserError

JSON_FILES = {"train800": "train.json", "val200": "val.json", "test": "test.json"}
LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt")
IMAGE_FOLDERS = ("", "images", "Images")  # of a data set, to which the paths in its files are relative

Row = tuple[str, str, str]  # path, class and the task's name of the split


def published_rows(folder: Path, task: Task) -> tuple[list[Row], bool]:
    """Returns the images of a task in `folder`, and whether VPT's files tell their splits.

    Raises:
        UserError: if neither kind of files can be read, no image is there, or the numbers are not the task's.
    """
    is_vpt = all((folder / name).is_file() for name in JSON_FILES.values())
    missing = [name for name in LISTS if not (folder / name).is_file()]
    if not is_vpt and missing:
        raise UserError(
            f"{folder} has neither VPT's {', '.join(JSON_FILES.values())} nor {missing[0]}: name the folder that "
            f"holds the files of the data set"
        )
    try:
        labeled = json_rows(folder) if is_vpt else list_rows(folder, task.num_train)
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"the split files in {folder} cannot be read ({error}); download them again") from error
    counts = Counter(split for _, _, split in labeled)
    for split, own_name in task.splits.items():
        if counts[split] != task.num_images(split):
            raise UserError(
                f"{folder} lists {counts[split]} images for {own_name}, task {task.name} has {task.num_images(split)}; "
                f"these are the files of another data set or version"
            )
    prefix = image_folder(folder, labeled[0][0])
    return [(f"{prefix}{path}", label, task.splits[split]) for path, label, split in labeled], is_vpt


def json_rows(folder: Path) -> list[Row]:
    """Returns path, class and split of the images in VPT's files."""
    rows = []
    for split, name in JSON_FILES.items():
        classes = json.loads((folder / name).read_text(encoding="utf-8"))
        rows += [(path, str(label), split) for path, label in classes.items()]
    return rows


def list_rows(folder: Path, num_train: int) -> list[Row]:
    """Returns path, class and split of the images in the lists.

    The training images are ranked by the sha256 of their paths: the first `num_train` are trained on, the others are
    for validation.
    """
    paths, labels, is_train = (
        dict(line.split(maxsplit=1) for line in (folder / name).read_text(encoding="utf-8").splitlines() if line)
        for name in LISTS
    )
    training = [path for image, path in paths.items() if is_train[image].strip() == "1"]
    training.sort(key=lambda path: hashlib.sha256(f"fgvc/{path}".encode()).digest())
    split_of = dict.fromkeys(training[:num_train], "train800") | dict.fromkeys(training[num_train:], "val200")
    return [(path, labels[image].strip(), split_of.get(path, "test")) for image, path in paths.items()]


def image_folder(folder: Path, path: str) -> str:
    """Returns the folder of the images with a slash, or nothing if their paths are relative to `folder`."""
    for name in IMAGE_FOLDERS:
        if (folder / name / path).is_file():
            return f"{name}/" if name else ""
    raise UserError(f"{folder} lists {path}, which is not there: unpack the images of the data set in that folder")
