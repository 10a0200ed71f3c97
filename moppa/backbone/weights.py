"""A checkpoint file -> the tensors of a timm model, all of them or an error that names what does not fit."""

import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from moppa.utils.errors import UserError


def load_weights(model: nn.Module, file: Path, *, untrained: Sequence[str], unused: Sequence[str]) -> None:
    """Copies a checkpoint into `model`, through timm's own filter (names of other releases, position embeddings)."""
    if file.suffix == ".npz":
        load_npz(model, file)
        return
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", lambda state, _: state)
    try:
        state = convert(read_tensors(file), model)
    except (KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"backbone.weights={file}: not a checkpoint of {type(model).__name__} ({error})") from error
    head = str(getattr(model, "pretrained_cfg", {}).get("classifier", "head"))
    dropped = (head, *unused)
    state = {name: tensor for name, tensor in state.items() if not belongs(name, dropped)}
    check_fit(model, state, file, untrained=untrained)
    model.load_state_dict(state, strict=False)


def check_fit(model: nn.Module, state: Mapping[str, Tensor], file: Path, *, untrained: Sequence[str]) -> None:
    """Every tensor of the model must come from the file and every tensor of the file go into the model."""
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    missing = [name for name in wanted if name not in state and not belongs(name, untrained)]
    unexpected = [name for name in state if name not in wanted]
    reshaped = [
        f"{name} {tuple(state[name].shape)} for {tuple(shape)}"
        for name, shape in wanted.items()
        if name in state and state[name].shape != shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if said := "; ".join(f"{what}: {first(names)}" for what, names in faults.items() if names):
        raise UserError(
            f"backbone.weights={file} does not fit {model.pretrained_cfg.get('architecture')}: {said}; "
            f"choose the backbone that these weights belong to"
        )


def first(names: Sequence[str], count: int = 3) -> str:
    """The first few of many names."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def belongs(name: str, modules: Sequence[str]) -> bool:
    """Whether a tensor's name lies in one of the named modules."""
    return any(name.startswith(f"{module}.") for module in modules)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or pth file; pickled code is never run."""
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        if file.suffix in {".pth", ".pt", ".bin"}:
            return torch.load(file, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"backbone.weights={file} cannot be read as tensors ({reason}); it is truncated, or holds more than tensors"
        ) from error
    raise UserError(f"backbone.weights={file}: the suffix must be .safetensors, .npz, .pth, .pt or .bin")


def load_npz(model: nn.Module, file: Path) -> None:
    """A checkpoint of the original JAX release (`ViT-B_16.npz`), by timm's own converter."""
    if not hasattr(model, "load_pretrained"):
        raise UserError(f"backbone.weights={file}: timm reads no npz for {type(model).__name__}")
    try:
        model.load_pretrained(str(file))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, RuntimeError, AssertionError) as error:
        raise UserError(
            f"backbone.weights={file} does not fit {model.pretrained_cfg.get('architecture')}: missing or of another "
            f"shape: {error}"
        ) from error
