"""Exports a finished cell as the state dict of a plain timm model, with its method merged into the weights."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from omegaconf import OmegaConf
from torch import nn

from moppa.backbone.model import compute_weights_sha256
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.record.cell import cell_from_config
from moppa.record.parts import instantiate_parts
from moppa.record.schema import read_record
from moppa.utils.atomic import atomic_write, sha256_file
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.seeds import generator_for

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
TOLERANCE = 1e-4  # of the logits, relative to the largest: float32 sums in another order


def export(path: Path, out: Path, *, weights: str | None = None) -> None:
    """Writes the merged weights of a record's cell to a file that plain timm loads strictly: safetensors, or a .pth.

    `weights` is the backbone's checkpoint, if it is no longer at the path that the record names.

    Raises:
        UserError: if timm would not read a file of that suffix, the trained tensors were not kept or have changed, the
            backbone's weights are not those of the record, or the method cannot be merged into the weights.
    """
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out}: timm tells weights by their suffix; choose one of {', '.join(SUFFIXES)}")
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

    timm_model = plain_model(record)
    size = parts.backbone.image_size
    images = torch.randn(2, 3, size, size, generator=generator_for(0, "export"))
    with torch.no_grad():
        expected = model(images)
        merge(model)
        if model.state_dict().keys() != timm_model.state_dict().keys():
            raise UserError(
                f"{record['method']} cannot be merged into the weights of a plain timm model, because it changes "
                f"activations; its trained tensors are in {trained_path(path)}"
            )
        timm_model.load_state_dict(model.state_dict())
        difference = float((timm_model(images) - expected).abs().max() / expected.abs().max())
    if difference >= TOLERANCE:
        raise RuntimeError(f"merging changed the logits by {difference:.1e} of the largest")
    metadata = {
        "timm": record["config"]["backbone"]["timm"],
        "num_classes": str(timm_model.num_classes),
        "image_size": str(size),
        "method": record["method"],
        "task": record["task"],
        "key": record["key"],
        "seed": str(record["seed"]),
    }
    with atomic_write(out) as temporary:
        tensors = {name: tensor.contiguous() for name, tensor in timm_model.state_dict().items()}
        if out.suffix == ".safetensors":
            safetensors.torch.save_file(tensors, temporary, metadata=metadata)
        else:
            torch.save({"state_dict": tensors, "metadata": metadata}, temporary)


def trained_path(path: Path) -> Path:
    """Returns the path of a record's trained tensors, which mirrors the record's: checkpoints/ instead of records/.

    Raises:
        UserError: if the record is not in a results folder.
    """
    files = [
        root.parent / "checkpoints" / place.relative_to(root).with_suffix(".safetensors")
        for place in (Path(os.path.abspath(path)), path.resolve())  # noqa: PTH100 - the folder may be a link
        for root in place.parents
        if root.name == "records"
    ]
    if not files:
        raise UserError(f"{path} is not in a results folder (.../records/...): give the record at its original path")
    return next((file for file in files if file.is_file()), files[0])


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
    parameters = trainable_parameters(model)
    if {name: t.shape for name, t in tensors.items()} != {name: p.shape for name, p in parameters.items()}:
        raise UserError(
            f"{file} holds other tensors than {record['method']} trains in this version: delete {path} and run the "
            f"cell again"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)


def plain_model(record: Mapping[str, Any]) -> nn.Module:
    """Returns what `timm.create_model` gives for the record's backbone, without any code of this project."""
    config = record["config"]["backbone"]
    settings = {} if config["pool"] is None else {"global_pool": config["pool"]}
    if timm.get_pretrained_cfg_value(config["timm"], "fixed_input_size"):
        settings["img_size"] = config["image_size"]
    num_classes = record["config"]["task"]["num_classes"]
    return timm.create_model(config["timm"], num_classes=num_classes, **settings).eval()
