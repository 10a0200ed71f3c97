"""Runs cells again and compares the outcome with their records."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from moppa.record.cell import cell_from_config
from moppa.record.integrity import read_predictions
from moppa.record.reevaluate import NotEvaluatedError, evaluation_config, is_same_machine
from moppa.record.schema import read_record, targets_of
from moppa.utils.config import importable
from moppa.utils.device import get_device
from moppa.utils.paths import CONFIGS
from moppa.utils.provenance import sources_sha256

STANDARD_ERRORS = 3
MIN_NOISE = 0.005  # share of the images


def draw_records(paths: Sequence[Path], count: int, seed: int) -> list[Path]:
    """Returns so many records, drawn at random and in order; all of them if there are fewer."""
    return sorted(random.Random(seed).sample(sorted(paths), min(count, len(paths))))


def rerun_config(record: Mapping[str, Any], settings: Mapping[str, str], results: Path) -> DictConfig:
    """Returns a record's config for a run on this machine that writes to `results`.

    How it is run is as in the record, as far as this version has these settings.

    Raises:
        UserError: if one of `settings` says more than where images and weights are.
        NotEvaluatedError: if this version would give the cell another key.
    """
    config: Any = evaluation_config(record, settings)
    standard: Any = OmegaConf.load(CONFIGS / "cell.yaml")
    recorded = {name: value for name, value in config.run.items() if name in standard.run}
    backend = record["device"].get("matmul_backend")
    config.run = {
        **standard.run,
        **recorded,
        "results": str(results),
        "threads": record["device"]["threads"],
        "keep_trained": False,
        **({"matmul_backend": backend} if backend else {}),
    }
    config.hparams, config.hparams_max_params = "given", None
    key = cell_from_config(config, weights_sha256=record["weights"]["sha256"]).key
    if key != record["key"]:
        raise NotEvaluatedError(f"this version gives the cell another key ({key}, or another dtype on this machine)")
    return config


def find_difference(path: Path, again: Path) -> str:
    """Returns how the run `again` differs from the record at `path` by more than it may, or an empty string.

    With the same code, processor, threads and versions every byte of the prediction file must be the same. Otherwise
    the numbers of correct predictions may differ by `count_noise`.
    """
    record, other = read_record(path), read_record(again)
    is_exact = has_same_code(record) and is_same_machine(record, get_device(record["device"]["type"]))
    recorded, repeated = read_predictions(path, record), read_predictions(again, other)
    if recorded is None or repeated is None or not np.array_equal(recorded[1], repeated[1]):
        return "run again, it has other labels, or a prediction file is missing"
    num_different = int((recorded[0] != repeated[0]).sum())
    if is_exact:
        is_equal = record.get("predictions", {}).get("sha256") == other["predictions"]["sha256"]
        if is_equal:
            return ""
        return (
            f"run again with the same code on the same kind of machine, it gives other bytes: {num_different} of "
            f"{len(repeated[0])} predictions differ"
        )
    noise = count_noise(recorded[0] == recorded[1], repeated[0] == repeated[1])
    if abs(record["correct"] - other["correct"]) <= noise:
        return ""
    return (
        f"run again, it has {other['correct']} of {other['total']} images correct, its record {record['correct']}: "
        f"more apart than the {noise:.0f} that other machines and versions explain"
    )


def count_noise(first: np.ndarray, second: np.ndarray) -> float:
    """Returns by how many correct predictions two runs of one cell may differ on different machines: bool (images,).

    These are three standard errors of the difference, the square root of the number of images that only one run
    predicts correctly (as in McNemar's test), and at least 0.5 % of the images.
    """
    return max(STANDARD_ERRORS * float((first != second).sum()) ** 0.5, MIN_NOISE * len(first))


def has_same_code(record: Mapping[str, Any]) -> bool:
    """Returns whether a record was computed with the sources and YAMLs of this installation."""
    sources = record.get("sources") or {}
    configs = tuple((name, CONFIGS / name) for name in sources.get("configs", ()))
    if not all(path.is_file() for _, path in configs):
        return False
    modules = tuple(importable(path).rpartition(".")[0] for path in targets_of(record["config"]))
    return sources_sha256(modules[0], configs, modules[1:]) == sources.get("sha256")
