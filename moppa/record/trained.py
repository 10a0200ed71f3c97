"""The trained tensors of a finished cell, which lie beside its record."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from moppa.backbone.model import compute_weights_sha256
from moppa.peft.collect import trained_tensors
from moppa.record.cell import cell_from_config
from moppa.record.parts import instantiate_parts
from moppa.record.schema import read_record
from moppa.record.trained_file import read_trained, trained_path
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


def load_trained(model: nn.Module, path: Path, record: Mapping[str, Any]) -> None:
    """Copies the trained tensors of a record's cell into its model.

    Raises:
        UserError: if they were not kept, have changed, or were trained by a version of the method with other tensors.
    """
    tensors = read_trained(path, record)
    parameters = trained_tensors(model)
    if {name: t.shape for name, t in tensors.items()} != {name: p.shape for name, p in parameters.items()}:
        raise UserError(
            f"{trained_path(path)} holds other tensors than {record['method']} trains in this version: delete {path} "
            f"and run the cell again"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
