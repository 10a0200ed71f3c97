"""Checkpoint files: where they are, and loading them into a timm model without a silent mismatch."""

import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from moppa.utils.errors import SettingError

PACKAGED = "package:"
ASSETS = Path(__file__).parent / "assets"


def weights_path(weights: str) -> Path:
    """Returns the file that `backbone.weights` names, in the assets of this package for "package:FILE"."""
    if weights.startswith(PACKAGED):
        return ASSETS / weights.removeprefix(PACKAGED)
    return Path(weights).expanduser()


def download_weights(timm_name: str) -> Path:
    """Returns timm's checkpoint from the Hugging Face hub, or from its local cache.

    Raises:
        SettingError: If timm has no weights for the model, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download  # slow to import and rarely needed
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository = timm.get_pretrained_cfg_value(timm_name, "hf_hub_id")
    if repository is None:
        raise SettingError(
            "backbone.timm", f"={timm_name} has no weights on the hub; give a file: backbone.weights=FILE"
        )
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise SettingError(
            "backbone.weights",
            f": cannot download {repository} ({type(error).__name__}: {str(error).splitlines()[0]}); "
            f"connect once, or give a file: backbone.weights=FILE",
        ) from error


def load_weights(model: nn.Module, file: Path, *, untrained: Sequence[str], unused: Sequence[str]) -> None:
    """Copies a checkpoint into a model without a head.

    timm's own filter renames old keys and resizes position embeddings. `untrained` names modules that may be missing in
    the file, `unused` names modules of the file that are ignored.

    Raises:
        SettingError: If the file cannot be read or does not fit the model.
    """
    if file.suffix == ".npz":
        load_npz(model, file)
        return
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", lambda state, _: state)
    tensors = read_tensors(file)
    try:
        state = convert(tensors, model)
    except (KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise SettingError("weights", f"={file}: not a checkpoint of {type(model).__name__} ({error})") from error
    config: Any = getattr(model, "pretrained_cfg", {})
    ignored = (str(config.get("classifier", "head")), *unused)
    state = {name: tensor for name, tensor in state.items() if not is_inside(name, ignored)}
    check_fit(model, state, file, untrained=untrained)
    model.load_state_dict(state, strict=False)


def check_fit(model: nn.Module, state: Mapping[str, Tensor], file: Path, *, untrained: Sequence[str]) -> None:
    """Raises unless file and model have the same tensors, up to `untrained` modules."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    missing = [name for name in shapes if name not in state and not is_inside(name, untrained)]
    unexpected = [name for name in state if name not in shapes]
    mismatched = [
        f"{name} {tuple(state[name].shape)} for {tuple(shape)}"
        for name, shape in shapes.items()
        if name in state and state[name].shape != shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
    if summary := "; ".join(f"{problem}: {shorten(names)}" for problem, names in problems.items() if names):
        raise SettingError(
            "weights",
            f"={file} does not fit {architecture(model)}: {summary}; choose the backbone that these weights belong to",
        )


def shorten(names: Sequence[str], max_names: int = 3) -> str:
    """Returns the first names and the number of the others."""
    return ", ".join(names[:max_names]) + (f" and {len(names) - max_names} more" if len(names) > max_names else "")


def is_inside(name: str, modules: Sequence[str]) -> bool:
    """Returns whether a tensor belongs to one of the named modules."""
    return any(name.startswith(f"{module}.") for module in modules)


def architecture(model: Any) -> str:
    """Returns the timm name of a model."""
    return str(model.pretrained_cfg.get("architecture"))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors or pth file. It never runs pickled code."""
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        if file.suffix in {".pth", ".pt", ".bin"}:
            return torch.load(file, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingError(
            "weights",
            f"={file} cannot be read as tensors ({reason}); it is truncated, or contains more than tensors",
        ) from error
    raise SettingError("weights", f"={file}: the suffix must be .safetensors, .npz, .pth, .pt or .bin")


def load_npz(model: Any, file: Path) -> None:
    """Loads a checkpoint of the original JAX release (`ViT-B_16.npz`) with timm's converter."""
    if not hasattr(model, "load_pretrained"):
        raise SettingError("weights", f"={file}: timm cannot read npz files for {type(model).__name__}")
    try:
        model.load_pretrained(str(file))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, RuntimeError, AssertionError) as error:
        raise SettingError(
            "weights", f"={file} does not fit {architecture(model)}: missing or of another shape: {error}"
        ) from error
