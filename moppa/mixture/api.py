"""MoPPA for any timm model, without the harness: attach, then save and load the adapter alone."""

import json
from collections.abc import Mapping
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
from moppa.utils.paths import user_path

WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")  # what torch adds to names in blocks


@accepts_settings
def attach(model: nn.Module, *, generator: torch.Generator | None = None, **settings: Any) -> nn.Module:
    """Freezes a timm model, inserts a MoPPA unit into every block and leaves units and head trainable.

    The keyword arguments are the fields of `moppa.mixture.settings.MixtureSettings`: `rank=8`, `priors=["heat"]`, and
    so on. `generator` draws the initial weights. Returns the model, changed in place.

    Raises:
        UserError: If a setting is wrong, the model has no blocks or no grid, or it has units already.
    """
    checked = parse_settings(settings)
    timm_model: Any = unwrap(model, "pretrained_cfg")
    model.requires_grad_(False)
    insert_units(timm_model, checked, generator=generator)
    timm_model.get_classifier().requires_grad_(True)
    timm_model.moppa_settings = asdict(checked)  # `save` writes them
    return model


def save(model: nn.Module, path: str | Path) -> None:
    """Writes the parameters of the units as safetensors, with the settings that `load` needs.

    The model may be inside of torch.compile, DataParallel or another wrapper, which leaves no trace in the file.
    """
    timm_model: Any = unwrap(model, "moppa_settings")
    if not hasattr(timm_model, "moppa_settings"):
        raise UserError("this model has no MoPPA units to save: call moppa.attach(model) first")
    metadata = {
        "method": "moppa",
        "version": version("moppa"),
        "backbone": backbone_name(timm_model),
        "settings": json.dumps(timm_model.moppa_settings, sort_keys=True),
    }
    tensors = {name: parameter.detach().contiguous() for name, parameter in unit_parameters(timm_model).items()}
    with atomic_write(user_path(path)) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata=metadata)


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """Attaches saved units to a fresh model from `timm.create_model` and freezes everything else but the head.

    Raises:
        UserError: If the file is not a MoPPA adapter, or belongs to another backbone or image size.
    """
    path = user_path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}); give a file that moppa.save wrote") from error
    if metadata.get("method") != "moppa":
        raise UserError(f"{path} is not a MoPPA adapter; give a file that moppa.save wrote")
    timm_model = unwrap(model, "pretrained_cfg")
    if metadata["backbone"] != backbone_name(timm_model):
        raise UserError(
            f"{path} belongs to the backbone {metadata['backbone']}, not to {backbone_name(timm_model)}: "
            f"create a model of {metadata['backbone']}"
        )
    attach(timm_model, **json.loads(metadata["settings"]))
    expected = unit_parameters(timm_model)
    names = expected.keys() | saved.keys()
    mismatched = sorted(name for name in names if describe_shape(expected, name) != describe_shape(saved, name))
    if mismatched:
        name = mismatched[0]
        raise UserError(
            f"{path} does not fit: {name} is {describe_shape(saved, name)} in the file and "
            f"{describe_shape(expected, name)} in the model ({len(mismatched)} parameters differ); "
            f"create the model with the image size that the adapter was trained at"
        )
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(saved[name])
    return model


def unwrap(model: nn.Module, attribute: str) -> nn.Module:
    """Returns the module inside of wrappers such as torch.compile that itself has an attribute, or else the model."""
    return next((module for module in model.modules() if attribute in vars(module)), model)


def unit_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters of the units by their names in a model whose blocks nobody has wrapped."""
    in_units = {id(tensor) for unit in model.modules() if isinstance(unit, Unit) for tensor in unit.parameters()}
    return {
        ".".join(part for part in name.split(".") if part not in WRAPPERS): parameter
        for name, parameter in model.named_parameters()  # names a shared parameter once
        if id(parameter) in in_units
    }


def backbone_name(model: nn.Module) -> str:
    """Returns the timm name of a model, with the tag of its weights."""
    config: Any = model.pretrained_cfg
    return f"{config['architecture']}.{config['tag']}" if config.get("tag") else str(config["architecture"])


def describe_shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | str:
    """Returns the shape of a tensor, or "missing"."""
    return tuple(tensors[name].shape) if name in tensors else "missing"
