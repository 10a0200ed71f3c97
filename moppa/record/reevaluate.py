"""Evaluates a finished cell again, from its kept tensors, and compares the predictions with those of its record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from moppa.backbone.model import compute_weights_sha256
from moppa.peft.inject import merge
from moppa.record.cell import cell_from_config
from moppa.record.integrity import read_predictions
from moppa.record.parts import Parts, instantiate_parts
from moppa.record.schema import read_record
from moppa.record.trained import load_trained
from moppa.record.trained_file import trained_path
from moppa.utils.config import instantiate
from moppa.utils.device import configure_process, device_info, get_device
from moppa.utils.errors import UserError
from moppa.utils.provenance import versions

TOLERANCE = 0.005  # share of the predictions that may differ on another processor, backend or version of a package
SAME = ("torch", "timm", "numpy")  # with these versions, on the same processor, no prediction may differ
SETTABLE = ("data.dir", "data.cache", "backbone.weights")


class NotEvaluatedError(UserError):
    """Says what is missing here for an evaluation."""


def reevaluate(path: Path, settings: Mapping[str, str]) -> str:
    """Returns how the predictions of a record differ from those of its kept tensors, or an empty string.

    `settings` say where images and weights are, if the paths in the record do not lead there. Nothing is downloaded.
    Every prediction must be the same on the same processor, with the same number of threads, matmul backend and
    versions; elsewhere a share of `TOLERANCE` may differ.

    Raises:
        NotEvaluatedError: if the trained tensors, the backbone's weights or the images are not here.
    """
    record = read_record(path)
    recorded = read_predictions(path, record)
    if recorded is None or not trained_path(path).is_file():
        raise NotEvaluatedError("its trained tensors or predictions were not kept")
    config = evaluation_config(record, settings)
    device = get_device(config.run.device)
    backend = record["device"].get("matmul_backend") or config.run.get("matmul_backend", "auto")
    configure_process(threads=record["device"]["threads"], backend=backend, keep_memory=False)
    parts = available_parts(config, record)
    predicted = predict(parts, device, path, record)
    num_different = int((predicted != recorded[0]).sum())
    allowed = 0 if is_same_machine(record, device) else int(TOLERANCE * len(predicted))
    if num_different <= allowed:
        return ""
    return f"its trained tensors give other predictions for {num_different} of {len(predicted)} images"


def evaluation_config(record: Mapping[str, Any], settings: Mapping[str, str]) -> DictConfig:
    """Returns a record's config for this machine: with `settings`, and without downloads, logger and feature files."""
    config: Any = OmegaConf.create(record["config"])
    here = {"logger": {"_target_": "moppa.train.loggers.NoLogger"}, "run.keep_features": False, **settings}
    if "download" in config.data:
        here["data.download"] = False
    if record["device"]["type"] == "cpu" or not torch.cuda.is_available():
        here["run.device"] = "cpu"
    for name, value in here.items():
        if name in settings and name not in SETTABLE:
            raise UserError(f"{name} cannot be set for an evaluation; these can: {', '.join(SETTABLE)}")
        OmegaConf.update(config, name, value, merge=False)
    return config


def available_parts(config: DictConfig, record: Mapping[str, Any]) -> Parts:
    """Returns the objects of a cell.

    Raises:
        NotEvaluatedError: if the weights are missing or not the record's, or a setting does not exist any more.
    """
    try:
        sha256 = compute_weights_sha256(instantiate(config, "backbone"))
        parts = instantiate_parts(cell_from_config(config, weights_sha256=sha256))
    except UserError as error:
        raise NotEvaluatedError(str(error)) from error
    if sha256 != record["weights"]["sha256"]:
        raise NotEvaluatedError(f"the weights of {record['backbone']} here are not those of the record")
    return parts


def predict(parts: Parts, device: torch.device, path: Path, record: Mapping[str, Any]) -> np.ndarray:
    """Returns the predictions of the trained tensors beside a record.

    Raises:
        NotEvaluatedError: if the images are missing or not those of the record, or if the method of this version trains
            other tensors.
    """
    try:
        attached = parts.prepared(device)
        load_trained(attached.model, path, record)
        inputs = parts.inputs(attached)
        split = inputs.load(parts.protocol.evaluate)
    except UserError as error:
        raise NotEvaluatedError(str(error)) from error
    digest = record["split"].get("pixels_sha256", {}).get(parts.protocol.evaluate, split.digest)
    if digest != split.digest:
        raise NotEvaluatedError(f"the images of {parts.protocol.evaluate} here are not those of the record")
    return parts.evaluator(inputs).predict(merge(inputs.model), split.images, title=parts.protocol.evaluate)


def is_same_machine(record: Mapping[str, Any], device: torch.device) -> bool:
    """Returns whether this processor and these packages give the bytes of the record. Old records do not tell."""
    info = device_info(device)
    return all(record["device"].get(name) == value for name, value in info.items()) and all(
        record["versions"].get(name) == versions().get(name) for name in SAME
    )
