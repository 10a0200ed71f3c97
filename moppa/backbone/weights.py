"""Loads a checkpoint file into a timm model without a silent mismatch."""

import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from moppa.backbone.checkpoint_file import read_network
from moppa.utils.errors import SettingError
from moppa.utils.flatten import is_inside


def load_weights(model: nn.Module, file: Path, *, untrained: Sequence[str], unused: Sequence[str]) -> None:
    """Copies a checkpoint into a model without a head.

    timm's own filter renames old keys and resizes position embeddings. `untrained` names modules and tensors that may
    be missing in the file, `unused` names modules and tensors of the file that are ignored.

    Raises:
        SettingError: If the file cannot be read, does not fit the model, or holds NaN or infinity.
    """
    if file.suffix.lower() == ".npz":
        load_npz(model, file)
    else:
        config: Any = getattr(model, "pretrained_cfg", {})
        ignored = (str(config.get("classifier", "head")), *unused)
        tensors = without_modules(read_network(file, model.state_dict().keys()), unused)
        state = without_modules(convert(tensors, model, file), ignored)
        check_fit(model, state, file, untrained=untrained)
        model.load_state_dict(state, strict=False)
    check_finite(model, file)


def convert(tensors: dict[str, Tensor], model: nn.Module, file: Path) -> Mapping[str, Tensor]:
    """Returns the tensors as timm's filter for this architecture renames and resizes them."""
    filter_fn = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", lambda state, _: state)
    try:
        return filter_fn(tensors, model)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise SettingError("weights", f"={file}: not a checkpoint of {architecture(model)} ({error})") from error


def check_fit(model: nn.Module, state: Mapping[str, Tensor], file: Path, *, untrained: Sequence[str]) -> None:
    """Raises unless file and model have the same tensors, up to `untrained` ones."""
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state and not is_inside(name, untrained)]
    unexpected = [name for name in state if name not in wanted]
    common = [name for name in wanted if name in state]
    problems = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(wanted[name].shape)}"
            for name in common
            if state[name].shape != wanted[name].shape
        ],
        "of another dtype": [
            f"{name} {state[name].dtype}"
            for name in common
            if state[name].is_floating_point() != wanted[name].is_floating_point()
        ],
    }
    summary = "; ".join(f"{problem}: {shorten(names)}" for problem, names in problems.items() if names)
    if summary:
        fix = "choose the backbone that these weights belong to"
        if unexpected and not missing:
            modules = dict.fromkeys(name.partition(".")[0] for name in unexpected)
            fix += f", or ignore them: backbone.unused=[{','.join(modules)}]"
        raise SettingError("weights", f"={file} does not fit {architecture(model)}: {summary}; {fix}")


def check_finite(model: nn.Module, file: Path) -> None:
    """Raises if a loaded tensor holds NaN or infinity, which would end the training at its first step."""
    bad = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if bad:
        raise SettingError("weights", f"={file} holds NaN or infinity: {shorten(bad)}; get an intact copy of the file")


def shorten(names: Sequence[str], max_names: int = 3) -> str:
    """Returns the first names and the number of the others."""
    return ", ".join(names[:max_names]) + (f" and {len(names) - max_names} more" if len(names) > max_names else "")


def without_modules(tensors: Mapping[str, Tensor], modules: Sequence[str]) -> dict[str, Tensor]:
    """Returns the tensors that belong to none of the named modules."""
    return {name: tensor for name, tensor in tensors.items() if not is_inside(name, modules)}


def architecture(model: Any) -> str:
    """Returns the timm name of a model."""
    return str(model.pretrained_cfg.get("architecture"))


def load_npz(model: Any, file: Path) -> None:
    """Loads a checkpoint of the original JAX release (`ViT-B_16.npz`) with timm's converter."""
    if not hasattr(model, "load_pretrained"):
        raise SettingError("weights", f"={file}: timm cannot read npz files for {type(model).__name__}")
    if not zipfile.is_zipfile(file):
        raise SettingError(
            "weights", f"={file} does not fit {architecture(model)}: it is not an npz file, or truncated"
        )
    try:
        model.load_pretrained(str(file))
    except Exception as error:
        raise SettingError(
            "weights", f"={file} does not fit {architecture(model)}: missing or of another shape: {error}"
        ) from error
