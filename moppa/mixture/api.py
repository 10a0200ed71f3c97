"""MoPPA for any timm model, without the harness: attach, then save and load the adapter alone."""

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from moppa.mixture.insert import insert_units
from moppa.mixture.settings import accepts_settings, parse_settings
from moppa.mixture.unit import Unit
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError


@accepts_settings
def attach(model: nn.Module, *, generator: torch.Generator | None = None, **settings: Any) -> nn.Module:
    """Freezes a timm model, inserts a MoPPA unit into every block and leaves units and head trainable.

    The keyword arguments are the fields of `moppa.mixture.settings.MixtureSettings`: `rank=8`, `priors=["heat"]`, and
    so on. `generator` draws the initial weights. Returns the model, changed in place.

    Raises:
        UserError: If a setting is wrong, the model has no blocks or no grid, or it has units already.
    """
    checked = parse_settings(settings)
    model.requires_grad_(False)
    insert_units(model, checked, generator=generator)
    timm_model: Any = model
    timm_model.get_classifier().requires_grad_(True)
    timm_model.moppa_settings = asdict(checked)  # `save` writes them
    return model


def save(model: nn.Module, path: str | Path) -> None:
    """Writes the parameters of the units as safetensors, with the settings that `load` needs."""
    if not hasattr(model, "moppa_settings"):
        raise UserError("this model has no MoPPA units to save: call moppa.attach(model) first")
    metadata = {
        "method": "moppa",
        "version": version("moppa"),
        "backbone": backbone_name(model),
        "settings": json.dumps(model.moppa_settings, sort_keys=True),
    }
    with atomic_write(Path(path)) as temporary:
        safetensors.torch.save_file(unit_parameters(model), temporary, metadata=metadata)


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """Attaches saved units to a fresh model from `timm.create_model` and freezes everything else but the head.

    Raises:
        UserError: If the file is not a MoPPA adapter, or belongs to another backbone or image size.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}); give a file that moppa.save wrote") from error
    if metadata.get("method") != "moppa":
        raise UserError(f"{path} is not a MoPPA adapter; give a file that moppa.save wrote")
    if metadata["backbone"] != backbone_name(model):
        raise UserError(
            f"{path} belongs to the backbone {metadata['backbone']}, not to {backbone_name(model)}: "
            f"create a model of {metadata['backbone']}"
        )
    attach(model, **json.loads(metadata["settings"]))
    expected = unit_parameters(model)
    names = expected.keys() | saved.keys()
    mismatched = sorted(name for name in names if describe_shape(expected, name) != describe_shape(saved, name))
    if mismatched:
        name = mismatched[0]
        raise UserError(
            f"{path} does not fit: {name} is {describe_shape(saved, name)} in the file and "
            f"{describe_shape(expected, name)} in the model ({len(mismatched)} parameters differ); "
            f"create the model with the image size that the adapter was trained at"
        )
    model.load_state_dict(saved, strict=False)
    return model


def unit_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters of the units by their names in the model."""
    in_units = {id(tensor) for unit in model.modules() if isinstance(unit, Unit) for tensor in unit.parameters()}
    return {
        name: parameter.detach().contiguous()
        for name, parameter in model.named_parameters()  # names a shared parameter once
        if id(parameter) in in_units
    }


def backbone_name(model: nn.Module) -> str:
    """Returns the timm name of a model, with the tag of its weights."""
    config: Any = model.pretrained_cfg
    return f"{config['architecture']}.{config['tag']}" if config.get("tag") else str(config["architecture"])


def describe_shape(tensors: dict[str, Tensor], name: str) -> tuple[int, ...] | str:
    """Returns the shape of a tensor, or "missing"."""
    return tuple(tensors[name].shape) if name in tensors else "missing"
