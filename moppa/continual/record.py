"""The record of a step of a sequence: what was trained, and the correct images of all tasks so far. It has no times."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from moppa.record.cell import Cell
from moppa.record.schema import identity_of, short_digest
from moppa.record.trained_file import read_trained, trained_path
from moppa.utils.atomic import atomic_write, sha256_file, write_json
from moppa.utils.device import device_info, get_device
from moppa.utils.provenance import code_state

FOLDER = "continual"  # below results/records


def sequence_key(config: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    """Returns the key of a sequence: 12 hex digits over the strategy, its settings, and the cells in their order."""
    identity = {
        "config": identity_of(config["continual"]),
        "cells": [cell.key for cell in cells],
        "weights": cells[0].weights_sha256,
        "dtype": cells[0].dtype,
    }
    return short_digest(identity)


def step_path(results: Path, config: Mapping[str, Any], cells: Sequence[Cell], step: int) -> Path:
    """Returns the path of a record: continual/SUITE/BACKBONE/METHOD/STRATEGY/PROTOCOL/KEY/step3-seed0.json."""
    first = cells[0].config
    names = [first["task"]["suite"], *(first[group]["name"] for group in ("backbone", "method"))]
    names += [config["continual"]["name"], first["protocol"]["name"], sequence_key(config, cells)]
    return results.joinpath("records", FOLDER, *names, f"step{step}-seed{first['seed']}.json")


def save_tensors(path: Path, heads: Mapping[str, Mapping[str, Tensor]], kept: Mapping[str, Tensor]) -> str:
    """Writes the heads of the tasks and what the strategy keeps beside a record's place, and returns the sha256."""
    tensors = {f"head/{task}/{name}": tensor for task, head in heads.items() for name, tensor in head.items()}
    tensors |= {f"kept/{name}": tensor for name, tensor in kept.items()}
    file = trained_path(path)
    with atomic_write(file) as temporary:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
        safetensors.torch.save_file(contiguous, temporary)
    return sha256_file(file)


def load_tensors(path: Path, record: Mapping[str, Any]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Returns the heads by task and what the strategy kept, as a record's step left them.

    Raises:
        UserError: if the file is missing or has changed.
    """
    tensors = read_trained(path, record)
    heads: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("head/"):
            _, task, part = name.split("/")
            heads.setdefault(task, {})[part] = tensor
    return heads, {name.removeprefix("kept/"): t for name, t in tensors.items() if name.startswith("kept/")}


def write_step(path: Path, config: Mapping[str, Any], cells: Sequence[Cell], step: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the record of the last of the given cells, those of its sequence so far, and returns it."""
    cell = cells[-1]
    record = {
        "kind": "continual",
        "suite": cell.config["task"]["suite"],
        "backbone": cell.config["backbone"]["name"],
        "method": cell.config["method"]["name"],
        "strategy": config["continual"]["name"],
        "protocol": cell.config["protocol"]["name"],
        "key": path.parent.name,
        "seed": cell.config["seed"],
        "config": {
            "continual": config["continual"],
            "search": config.get("search", []),
            "method": cell.config["method"],
        },
        "train": cell.config["train"],
        "weights": {"name": cell.weights_name, "sha256": cell.weights_sha256},
        "dtype": cell.dtype,
        "tasks": [
            {
                "name": one.config["task"]["name"],
                "key": one.key,
                "title": one.config["task"]["title"],
                "column": one.config["task"]["column"],
                "num_classes": one.config["task"]["num_classes"],
            }
            for one in cells
        ],
        **step,
        "device": device_info(get_device(cell.config["run"]["device"])),
        **code_state(),
    }
    write_json(path, record)
    return record
