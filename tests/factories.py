"""Records as cells would write them, made in milliseconds."""

import json
from copy import deepcopy
from functools import cache

import numpy as np

from moppa.record.merge_schema import HEADS, mean_normalized, merge_key, merge_place
from moppa.record.schema import REQUIRED, key_of
from moppa.utils.atomic import sha256_file
from tests.conftest import config_of

PARAMS = {
    "linear": 0,
    "lora": 294912,
    "moppa": 150420,
    "adaptformer": 156768,
    "bitfit": 102912,
    "compose": 451680,
    "ssf": 205824,
    "vpt_deep": 92160,
}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SCALES = [0.1, 0.5, 1.5]  # of a merge
COMMIT = "0123456789abcdef"


@cache
def composed(overrides):
    """Returns a resolved config, composed once."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config_of(*overrides), resolve=True)


def record_of(*overrides, percent=80.0, weights="w" * 64, lineage=None, protocol="final", seed=0, epochs=4, **others):
    """Returns the content of a record with an accuracy of `percent`."""
    config = deepcopy(composed((f"protocol={protocol}", *overrides)))
    config["seed"] = seed
    task = config["task"]
    lineage = lineage or {"noah": "noah_jpeg", "mini": "generated"}.get(config["data"]["name"], "tfds")
    total = task["num_test"] if protocol == "final" else 200
    record = {
        **dict.fromkeys(REQUIRED),
        "suite": task["suite"],
        "backbone": config["backbone"]["name"],
        "method": config["method"]["name"],
        "task": task["name"],
        "task_version": 1,
        "protocol": protocol,
        "seed": seed,
        "key": key_of(config, weights, "float32"),
        "correct": round(percent * total / 100),
        "total": total,
        "config": config,
        "split": {"verdict": "official", "lineage": lineage, "num_train": 1000},
        "weights": {"name": "mae", "sha256": weights},
        "git": {"commit": COMMIT, "dirty": False},
        "preprocess": {"interpolation": "bicubic", "size": 224, "pool": "token", **IMAGENET},
        "dtype": "float32",
        "device": {"type": "cpu", "name": "x86_64", "threads": 1},
        "versions": {"moppa": "0.1.0"},
        "trainable_params": PARAMS[config["method"]["name"]],
        "head_params": 769 * task["num_classes"],
        "seconds": {"data": 0.5, "train": 60.0 + seed, "evaluate": 2.0},
        "peak_memory_bytes": 1_500_000_000,
        "curve": [{"loss": 2.0 / (epoch + 1), "lr": 0.001} for epoch in range(epochs)],
    }
    return record | others


def write_record_file(results, *overrides, predictions=False, shift=0, **fields):
    """Writes a record at its path, with predictions if asked for, and returns the path."""
    record = record_of(*overrides, **fields)
    path = results / "records" / path_of(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    if predictions:
        write_predictions(path, record, shift)
        record = {**record, "predictions": {"sha256": sha256_file(path.with_suffix(".npz"))}}
    path.write_text(json.dumps(record))
    return path


def path_of(record):
    """Returns the path of a record, relative to results/records."""
    names = [record[name] for name in ("suite", "backbone", "task", "method", "key")]
    return "/".join([*names, f"seed{record['seed']}.json"])


def write_predictions(path, record, shift=0):
    """Writes predictions that agree with a record: correct from image `shift` on."""
    classes, total = record["config"]["task"]["num_classes"], record["total"]
    label = (np.arange(total) % classes).astype(np.int16)
    is_correct = np.roll(np.arange(total) < record["correct"], shift)
    predicted = np.where(is_correct, label, (label + 1) % classes).astype(np.int16)
    np.savez_compressed(path.with_suffix(".npz"), predicted=predicted, label=label)


def merge_record_of(algorithm, tasks, *, names=("mini", "vit_micro", "lora"), seed=0, draw=0, scale=0.5, **merge):
    """Returns the content of the record of a merge. `names` are suite, backbone and method; `tasks` its field."""
    experts = {name: task["expert"]["tune"] for name, task in tasks.items()}
    best = {name: expert["correct"] // 2 for name, expert in experts.items()}
    correct = [best if tried == scale else dict.fromkeys(tasks, 1) for tried in SCALES]
    content = {
        "kind": "merge",
        **dict(zip(("suite", "backbone", "method"), names, strict=True)),
        "algorithm": algorithm,
        "seed": seed,
        "draw": draw,
        "config": {
            "scales": SCALES,
            "head_l2": 0.01,
            "merge": {"name": algorithm, "scale": None, "images": None, "draws": 1, "algorithm": {}, **merge},
        },
        "experts": ".",
        "weights": {"name": "mae", "sha256": "w" * 64},
        "dtype": "float32",
        "search": {
            "scales": SCALES,
            "normalized": [mean_normalized(counts, experts) for counts in correct],
            "correct": correct,
        },
        "scale": scale,
        "tasks": tasks,
        "device": {"type": "cpu", "name": "x86_64", "threads": 1},
        "versions": {"moppa": "0.1.0"},
        "git": {"commit": None, "dirty": None},
    }
    return with_merge_key(content)


def with_merge_key(content):
    pairs = [(task["expert"]["tune"]["key"], task["expert"]["final"]["key"]) for task in content["tasks"].values()]
    return content | {"key": merge_key(content["config"], pairs, content["weights"]["sha256"], content["dtype"])}


def write_merge_file(results, content):
    """Writes the record of a merge at its path, with predictions that agree with it, and returns the path."""
    path = results / "records" / merge_place(**content)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for name, task in content["tasks"].items():
        label = (np.arange(task["total"]) % task["num_classes"]).astype(np.int16)
        arrays[f"{name}/label"] = label
        for head in HEADS:
            is_correct = np.roll(np.arange(task["total"]) < task[head], content["seed"])
            arrays[f"{name}/{head}"] = np.where(is_correct, label, label + 1).astype(np.int16)
    np.savez_compressed(path.with_suffix(".npz"), **arrays)
    digest = {"sha256": sha256_file(path.with_suffix(".npz"))}
    path.write_text(json.dumps(content | {"predictions": digest}))
    return path
