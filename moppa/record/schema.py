"""A record as it lies on disk: its key, what it must hold, how it is read. Without torch, so that tables start fast."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from moppa.utils.errors import UserError

# What stands in the resolved config and cannot change the outcome: names for people, paths, the machine.
NEUTRAL = (
    "seed",  # it names the file in the key's folder
    "run",
    "logger",
    "hparams",  # where the settings came from: they count, not how they were chosen
    "data.dir",
    "data.cache",
    "data.download",
    "task.title",
    "task.column",
    "backbone.weights",  # a path: the sha256 of what lies there counts instead
)
PATHS = ("data.dir", "data.cache", "backbone.weights", "run.results")  # the neutral entries that name a place on disk
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


def key_of(config: Mapping[str, Any], weights_sha256: str) -> str:
    """Twelve hex digits over all of a resolved config that can change the outcome, and the weights themselves."""
    counted = {"config": without_entries(config, NEUTRAL), "weights": weights_sha256}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:12]


def without_entries(config: Mapping[str, Any], dotted: tuple[str, ...]) -> dict[str, Any]:
    """A config less the entries named by dotted paths."""
    inner = nested_paths(dotted)
    return {
        name: without_entries(value, inner[name]) if name in inner else value
        for name, value in config.items()
        if name not in dotted
    }


@lru_cache
def nested_paths(dotted: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The rest of dotted paths, by their first name; thousands of records ask for the same ones."""
    found: dict[str, tuple[str, ...]] = {}
    for first, _, rest in (path.partition(".") for path in dotted):
        if rest:
            found[first] = (*found.get(first, ()), rest)
    return found


def with_relative_paths(config: Mapping[str, Any], paths: tuple[str, ...] = PATHS) -> dict[str, Any]:
    """A config whose absolute paths stand relative to the working directory: they lead to the same places from there,
    and the record says nothing of the machine's other folders and their owners.
    """
    kept: dict[str, Any] = dict(config)
    for name, value in config.items():
        inner = tuple(path.removeprefix(f"{name}.") for path in paths if path.startswith(f"{name}."))
        if inner and isinstance(value, Mapping):
            kept[name] = with_relative_paths(value, inner)
        elif name in paths and isinstance(value, str) and Path(value).is_absolute():
            with suppress(ValueError):  # another drive of Windows, which no relative path reaches
                kept[name] = os.path.relpath(value)
    return kept


def read_record(path: Path) -> dict[str, Any]:
    """A record, or an error that names the file."""
    return read_record_with_sha256(path)[0]


def read_record_with_sha256(path: Path) -> tuple[dict[str, Any], str]:
    """A record and the sha256 of its file, which is read once."""
    try:
        text = path.read_bytes()
        record = json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a record: it is not JSON ({error}); delete it and run its cell again"
        ) from error
    if missing := [name for name in REQUIRED if name not in record] if isinstance(record, dict) else list(REQUIRED):
        raise UserError(f"{path} is not a record: it lacks {', '.join(missing[:3])}; delete it and run its cell again")
    return record, hashlib.sha256(text).hexdigest()
