"""A record as a file: its key, its required fields, and how it is read. Imports no torch, so that tables start fast."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from moppa.record import legacy
from moppa.utils.errors import UserError
from moppa.utils.flatten import HYDRA_KEYS

# Entries of the resolved config that cannot change the outcome: display names, paths, and how the cell is run.
NEUTRAL = (
    "seed",  # names the file inside the folder of the key
    "run",
    "logger",
    "hparams",  # how the settings were chosen; the settings themselves count
    "hparams_fixed",
    "hparams_max_params",
    "data.dir",
    "data.cache",
    "data.download",
    "data.mirror",  # a place; the record's split names the copy
    "data.url",  # likewise; the content of the files counts instead
    "data.sha256",
    "data.allow_shared_images",  # an error or none; it does not decide which images are read
    "data.lineage",  # in old records; the name of the source implies it
    "train.recipe",  # its values count, not what it is called
    "train.augmentation.name",  # likewise
    "train.published",
    "task.title",
    "task.column",
    "task.suite_version",
    "task.test_sha256",  # a check of the images; it does not decide which are read
    "backbone.weights",  # a path; the sha256 of the file counts instead
)


def pools_class_token(config: Mapping[str, Any]) -> bool:
    """Returns whether the head reads the class token, so that what is added to an average has no effect."""
    return get_entry(config, "backbone.pool", None) != "avg"


LORA = {"share_down": False, "init": "kaiming_uniform", "dropout": 0.0}
# Settings that were added after records existed, with the value that reproduces what the code did before. With another
# value they count in the key, so that older records keep theirs; a record that lacks one is read as having this value.
ADDED: dict[str, Any] = {
    "backbone.quantize": None,
    "backbone.quantize_bits": None,
    "backbone.quantize_rounds": 0,
    "train.decay_1d": True,
    "train.label_smoothing": 0.0,
    "train.clip_norm": None,
    "train.drop_last": False,
    "train.epoch_images": None,
    "train.normalization": None,
    "train.augmentation": None,
    "train.pace": None,
    "train.pace_sigma": 1.0,
    "train.pace_from_block": 1,
    "train.recipe": None,
    "train.published": None,
}
# The same for `method.attach`, by the method's name. A function returns the value for a config.
ADDED_TO_METHODS: dict[str, dict[str, Any]] = {
    "bi_adaptformer": {"reads": "after_norm"},
    "houlsby": {"train_norms": False},
    "lora": LORA,
    "mola": LORA,
    "mos": {"dropout": 0.0},
    "ssf": {"before_pooling": pools_class_token},
    "vpt_deep": {"pool_prompts": pools_class_token},
    "vpt_shallow": {"pool_prompts": pools_class_token},
    "moppa": {"constants_per": "channel", "damping": None, "gate": False},
}
PATHS = ("data.dir", "data.cache", "backbone.weights", "run.results")  # the neutral entries that are paths
REQUIRED = (
    "suite",
    "backbone",
    "method",
    "task",
    "task_version",
    "key",
    "seed",
    "protocol",
    "correct",
    "total",
    "config",
    "split",
    "weights",
    "preprocess",
    "dtype",
    "device",
    "versions",
    "git",
    "trainable_params",
    "head_params",
    "seconds",
    "peak_memory_bytes",
    "curve",
)
PYTHON_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def key_of(config: Mapping[str, Any], weights_sha256: str, dtype: str) -> str:
    """Returns the key of a cell: 12 hex digits over everything that can change its outcome.

    These are the resolved config without its neutral entries and Python paths, the weights and the dtype of the
    computation.
    """
    unchanged = tuple(name for name, value in added_settings(config).items() if get_entry(config, name, value) == value)
    identity = identity_of(without_entries(config, (*NEUTRAL, *unchanged)))
    counted = {"config": identity, "weights": weights_sha256, "dtype": dtype}
    return short_digest(counted)


def short_digest(identity: Any) -> str:
    """Returns the first 12 hex digits of the sha256 of what a key stands for."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def identity_of(config: Any, name: str = "") -> Any:
    """Returns a config in which only names and values count, so that code can move without a new key.

    Every `_target_` is left out: a method, a task or a data source is identified by its `name`, its `version` if it has
    one, and its values. Two functions decide what the data are and have no other name: the label rule of a task and the
    function that draws a generated task. Their own name counts, and the module that holds them does not.
    """
    if not isinstance(config, Mapping):
        is_builder = name == "builder" and isinstance(config, str) and PYTHON_PATH.fullmatch(config)
        return config.rpartition(".")[2] if is_builder else config
    values = {key: identity_of(value, key) for key, value in config.items() if key not in HYDRA_KEYS}
    if name == "label" and "_target_" in config:
        values["rule"] = str(config["_target_"]).rpartition(".")[2]
    return values


def added_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that were added after records existed and that a config of this method can have."""
    added = dict(ADDED)
    for place, method in methods_of(config):
        for name, value in ADDED_TO_METHODS.get(method, {}).items():
            added[f"{place}.attach.{name}"] = value(config) if callable(value) else value
    return added


def methods_of(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the places and names of the method of a config, and of the methods that it composes."""
    methods = [("method", get_entry(config, "method.name", ""))]
    parts = get_entry(config, "method.attach.methods", None)
    for place, part in (parts if isinstance(parts, Mapping) else {}).items():
        methods.append((f"method.attach.methods.{place}", get_entry(part, "name", "")))
    return methods


def targets_of(config: Mapping[str, Any]) -> list[str]:
    """Returns the Python paths of the functions that attach the method of a config and those that it composes."""
    return [get_entry(config, f"{place}.attach._target_", "") for place, _ in methods_of(config)]


def with_added_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record's config with every setting that was added after it was written."""
    complete = dict(config)
    for dotted, value in added_settings(config).items():
        *groups, name = dotted.split(".")
        node: Any = complete
        for group in groups:  # only the groups that change are copied
            if not isinstance(node.get(group), dict):
                break
            node[group] = dict(node[group])
            node = node[group]
        else:
            node.setdefault(name, value)
    return complete


def get_entry(config: Mapping[str, Any], dotted: str, default: Any) -> Any:
    """Returns the entry of a config at a dotted path, or the default."""
    node: Any = config
    for name in dotted.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return default
        node = node[name]
    return node


def without_entries(config: Mapping[str, Any], dotted: tuple[str, ...]) -> dict[str, Any]:
    """Returns a config without the entries that the dotted paths name."""
    inner = nested_paths(dotted)
    return {
        name: without_entries(value, inner[name]) if name in inner and isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in dotted
    }


@lru_cache
def nested_paths(dotted: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Returns the rest of each dotted path by its first name."""
    rests: dict[str, tuple[str, ...]] = {}
    for first, _, rest in (path.partition(".") for path in dotted):
        if rest:
            rests[first] = (*rests.get(first, ()), rest)
    return rests


def draw_of(config: Mapping[str, Any]) -> dict[str, int]:
    """Returns the number of images of each class that a few-shot cell trains on, and the seed of their draw."""
    protocol = config["protocol"]
    if protocol.get("shots") is None:
        return {}
    draw = config["seed"] if protocol.get("draw") is None else protocol["draw"]
    return {"shots": protocol["shots"], "draw": draw}


def with_relative_paths(config: Mapping[str, Any], paths: tuple[str, ...] = PATHS) -> dict[str, Any]:
    """Returns a config whose absolute paths are relative to the working directory.

    They lead to the same files from there, and the record says nothing about the machine's other folders and users.
    """
    portable: dict[str, Any] = dict(config)
    for name, value in config.items():
        inner = tuple(path.removeprefix(f"{name}.") for path in paths if path.startswith(f"{name}."))
        if inner and isinstance(value, Mapping):
            portable[name] = with_relative_paths(value, inner)
        elif name in paths and isinstance(value, str) and Path(value).is_absolute():
            with suppress(ValueError):  # on Windows no relative path leads to another drive
                portable[name] = os.path.relpath(value)
    return portable


def read_record(path: Path) -> dict[str, Any]:
    """Returns a record.

    Raises:
        UserError: if the file cannot be read, is not JSON, or lacks a required field.
    """
    return read_record_with_sha256(path)[0]


def read_record_with_sha256(path: Path) -> tuple[dict[str, Any], str]:
    """Returns a record and the sha256 of its file. A record of an older format is returned in today's."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"there is no record at {path}: give the JSON file of a finished cell") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): give a JSON file that you may read"
        ) from error
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not a record: it is not JSON ({error}); delete it and run its cell again"
        ) from error
    missing = [name for name in REQUIRED if name not in record] if isinstance(record, dict) else list(REQUIRED)
    if missing:
        raise UserError(f"{path} is not a record: it lacks {', '.join(missing[:3])}; delete it and run its cell again")
    if legacy.is_legacy(record):
        record = with_key(legacy.upgraded(record))
    if isinstance(record["config"], Mapping):
        record = {**record, "config": with_added_settings(record["config"])}
    return legacy.with_renamed_fields(record), hashlib.sha256(data).hexdigest()


def with_key(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record with the key that its config, weights and dtype give."""
    key = key_of(record["config"], record["weights"]["sha256"], record["dtype"])
    return {**record, "key": key}


def mean_accuracy(records: Sequence[Mapping[str, Any]]) -> Fraction:
    """Returns the mean accuracy as a fraction, so that equal accuracies compare as equal."""
    return sum((Fraction(record["correct"], record["total"]) for record in records), Fraction(0)) / len(records)
