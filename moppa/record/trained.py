"""The trained tensors of a finished cell, which lie beside its record."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from omegaconf import OmegaConf
from torch import nn

from moppa.backbone.model import compute_weights_sha256
from moppa.peft.collect import trained_tensors
from moppa.record.cell import cell_from_config
from moppa.record.parts import instantiate_parts
from moppa.record.schema import read_record
from moppa.utils.atomic import sha256_file
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished cell: its record, its trained model with the method attached, and the backbone before training.

    The head of `backbone` is a fresh one.
    """

    path: Path
    record: Mapping[str, Any]
    model: nn.Module
    backbone: nn.Module

    @property
    def image_size(self) -> int:
        return self.record["config"]["backbone"]["image_size"]


def load_finished(path: Path, *, weights: str | None = None) -> Finished:
    """Returns the cell of a record with its trained model on the CPU, in eval mode.

    `weights` is the backbone's checkpoint, if it is no longer at the path that the record names.

    Raises:
        UserError: if the trained tensors were not kept or have changed, or the backbone's weights are not those of the
            record.
    """
    record = read_record(path)
    config: Any = OmegaConf.create(record["config"])
    if weights is not None:
        config.backbone.weights = weights
    weights_sha256 = compute_weights_sha256(instantiate(config, "backbone"))
    if weights_sha256 != record["weights"]["sha256"]:
        raise UserError(
            f"{path} was trained from weights with sha256 {record['weights']['sha256'][:12]}, these have "
            f"{weights_sha256[:12]}: give the right file with --weights FILE"
        )
    parts = instantiate_parts(cell_from_config(config, weights_sha256=weights_sha256))
    model = parts.attached(torch.device("cpu")).model.eval()
    load_trained(model, path, record)
    return Finished(path=path, record=record, model=model, backbone=parts.build_model().eval())


def trained_path(path: Path) -> Path:
    """Returns the path of a record's trained tensors, which mirrors the record's: checkpoints/ instead of records/.

    Raises:
        UserError: if the record is not in a results folder.
    """
    files = [
        results / "checkpoints" / record.relative_to(results / "records").with_suffix(".safetensors")
        for results, record in results_folders(path)
    ]
    return next((file for file in files if file.is_file()), files[0])


def results_folders(path: Path) -> list[tuple[Path, Path]]:
    """Returns the results folders that a record is in, each with the record's path below it, the likeliest first.

    Raises:
        UserError: if it is in none.
    """
    found = [
        (root.parent, place)
        for place in (Path(os.path.abspath(path)), path.resolve())  # noqa: PTH100 - the folder may be a link
        for root in place.parents
        if root.name == "records"
    ]
    if not found:
        raise UserError(f"{path} is not in a results folder (.../records/...): give the record at its original path")
    return found


def load_trained(model: nn.Module, path: Path, record: Mapping[str, Any]) -> None:
    """Copies the trained tensors of a record's cell into its model.

    Raises:
        UserError: if they were not kept, have changed, or were trained by a version of the method with other tensors.
    """
    file = trained_path(path)
    if not file.is_file():
        raise UserError(
            f"{file} does not exist: the cell ran with run.keep_trained=false or on another machine; delete {path} "
            f"and run the cell again"
        )
    if sha256_file(file) != record.get("trained", {}).get("sha256"):
        raise UserError(f"{file} is not the file that {path} was evaluated with: delete both and run the cell again")
    tensors = safetensors.torch.load_file(file)
    parameters = trained_tensors(model)
    if {name: t.shape for name, t in tensors.items()} != {name: p.shape for name, p in parameters.items()}:
        raise UserError(
            f"{file} holds other tensors than {record['method']} trains in this version: delete {path} and run the "
            f"cell again"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
