"""MoPPA on any timm model, without the harness: attach, train in one's own loop, save and load the adapter alone."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from moppa.mixture import unit
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError


def attach(
    model: nn.Module,
    *,
    rank: int | None = 8,
    priors: Sequence[str] = ("heat", "wave", "poisson"),
    position: str = "attn_input",
    router: str = "dynamic",
    start: dict[str, float] | None = None,
    physics_rate: float = 1.0,
    poisson_gain: str = "unit",
    scale: float = 1.0,
    route_weight: float = 0.1,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Freezes a timm model, gives every block a MoPPA unit, and leaves units and head to be trained.

    The settings are those of `configs/method/moppa.yaml`, with its values; `moppa/mixture/unit.py` says what each means.

    Raises:
        UserError: for a model without blocks or grid, a value out of range, or a second unit on the same model.
    """
    settings: dict[str, Any] = {
        "rank": rank,
        "priors": list(priors),
        "position": position,
        "router": router,
        "start": start or {"diffusivity": 1.0, "speed": 1.0, "time": 1.0},
        "physics_rate": physics_rate,
        "poisson_gain": poisson_gain,
        "scale": scale,
        "route_weight": route_weight,
    }
    model.requires_grad_(False)
    unit.attach(model, **settings, generator=generator)
    model.get_classifier().requires_grad_(True)
    model.moppa_settings = settings  # type: ignore[assignment]  # what `save` writes down
    return model


def save(model: nn.Module, path: str | Path) -> None:
    """Writes the units' parameters alone as safetensors, with how to attach them again."""
    if not hasattr(model, "moppa_settings"):
        raise UserError("this model has no MoPPA units to save: call moppa.attach(model) first")
    metadata = {
        "method": "moppa",
        "version": version("moppa"),
        "backbone": backbone_of(model),
        "settings": json.dumps(model.moppa_settings, sort_keys=True),
    }
    with atomic_write(Path(path)) as temporary:
        safetensors.torch.save_file(units_of(model), temporary, metadata=metadata)


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """Attaches saved units to a timm model as it comes from `timm.create_model`, and freezes the rest but the head.

    Raises:
        UserError: where the file is no MoPPA adapter, or was made for another backbone or image size.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}); give a file that moppa.save wrote") from error
    if metadata.get("method") != "moppa":
        raise UserError(f"{path} holds no MoPPA adapter; give a file that moppa.save wrote")
    if metadata["backbone"] != backbone_of(model):
        raise UserError(
            f"{path} was made for the backbone {metadata['backbone']}, not for {backbone_of(model)}: create that one"
        )
    attach(model, **json.loads(metadata["settings"]))
    wanted = units_of(model)
    wrong = sorted(name for name in wanted.keys() | saved.keys() if shape(wanted, name) != shape(saved, name))
    if wrong:
        raise UserError(
            f"{path} does not fit: {wrong[0]} is {shape(saved, wrong[0])} there and {shape(wanted, wrong[0])} here "
            f"({len(wrong)} in all); create the backbone with the image size that the adapter was trained at"
        )
    model.load_state_dict(saved, strict=False)
    return model


def units_of(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of the units, by their names in the model."""
    return {
        f"{path}.{name}": parameter.detach().contiguous()
        for path, module in model.named_modules()
        if isinstance(module, unit.Unit)
        for name, parameter in module.named_parameters()
    }


def backbone_of(model: nn.Module) -> str:
    """The timm name of a model, with the tag of its weights."""
    facts: Any = model.pretrained_cfg
    return f"{facts['architecture']}.{facts['tag']}" if facts.get("tag") else str(facts["architecture"])


def shape(tensors: dict[str, Tensor], name: str) -> tuple[int, ...] | str:
    """The shape of one of them, or that it is missing."""
    return tuple(tensors[name].shape) if name in tensors else "missing"
