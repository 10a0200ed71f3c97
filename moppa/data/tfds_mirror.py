"""Copies a data set that TFDS prepared elsewhere."""

import json
from pathlib import Path
from typing import Any

from moppa.data.remote import fetch, join
from moppa.utils.errors import UserError

SETTING = "data.mirror"
FILE_FORMAT = "array_record"


def copy_prepared(mirror: str, builder: Any) -> bool:
    """Returns whether a mirror has the prepared data set of a builder; then it is in the builder's folder.

    Raises:
        UserError: if the copy is incomplete or stored in another file format.
    """
    target = Path(builder.data_path)
    place, staging = join(mirror, builder.info.full_name), target.with_name(f".{target.name}.copy")
    try:
        fetch(SETTING, join(place, "dataset_info.json"), staging / "dataset_info.json")
    except FileNotFoundError:
        return False
    try:
        fetch(SETTING, join(place, "features.json"), staging / "features.json")
        for name in shard_names(staging / "dataset_info.json", builder.name):
            fetch(SETTING, join(place, name), staging / name)
    except FileNotFoundError as error:
        raise UserError(f"{SETTING}={mirror}: {error} is missing; the copy is incomplete: get it again") from error
    for name in label_files(builder):
        try:
            fetch(SETTING, join(place, name), staging / name)
        except FileNotFoundError:
            continue
    staging.rename(target)
    return True


def shard_names(info_file: Path, dataset: str) -> list[str]:
    """Returns the file names of all shards of all splits, from a dataset_info.json.

    Raises:
        UserError: if the file is damaged, or if the shards are not array_record files with the standard names.
    """
    try:
        info = json.loads(info_file.read_text(encoding="utf-8"))
        counts = {split["name"]: len(split["shardLengths"]) for split in info["splits"]}
        file_format = info["fileFormat"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        info_file.unlink(missing_ok=True)
        raise UserError(
            f"{SETTING}: dataset_info.json of {dataset} is damaged ({error}); get the copy again"
        ) from error
    if file_format != FILE_FORMAT:
        info_file.unlink()
        raise UserError(
            f"{SETTING}: {dataset} is stored there as {file_format}; only {FILE_FORMAT} is read without TensorFlow"
        )
    return [
        f"{dataset}-{split}.{FILE_FORMAT}-{index:05d}-of-{count:05d}"
        for split, count in counts.items()
        for index in range(count)
    ]


def label_files(builder: Any) -> list[str]:
    """Returns the names of the files with class names that TFDS may have written."""
    from tensorflow_datasets.core.features import ClassLabel

    features = builder.info.features
    return [f"{name}.labels.txt" for name, feature in features.items() if isinstance(feature, ClassLabel)]
