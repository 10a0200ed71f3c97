"""Reads the tensors of a network from a checkpoint file, whatever the training code wrapped around them."""

import argparse
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy._core.multiarray as multiarray
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from moppa.utils.errors import SettingError

PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar")
# What training code saves beside the tensors, and what runs no code when it is read.
HARMLESS: list[Any] = [
    argparse.Namespace,
    (PurePosixPath, "pathlib.PosixPath"),
    np.dtype,
    np.ndarray,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
    *(
        (function, f"numpy.{package}.multiarray.{function.__name__}")
        for function in (multiarray.scalar, multiarray._reconstruct)
        for package in ("core", "_core")
    ),
]
HUGGING_FACE = ("embeddings.cls_token", "embeddings.patch_embeddings.projection.weight")  # ends of names in its ViT

Tensors = dict[str, Tensor]


def read_network(file: Path, expected: Collection[str]) -> Tensors:
    """Returns the tensors of the network with the `expected` names, as far as the file has them.

    The network may lie in a dict of the file ("model", "state_dict", "teacher"), and its names may have a prefix
    ("module.", "backbone."). Tensors without the prefix keep their names. If no part of the file has half of the
    expected names, its largest part is returned.

    Raises:
        SettingError: If the file cannot be read, holds no tensors, or holds several such networks.
    """
    parts = dict(tensor_dicts(read_payload(file)))
    if not parts:
        raise SettingError("weights", f"={file} holds no tensors by name; give a state dict")
    matches = {
        (part, prefix): count
        for part, tensors in parts.items()
        for prefix, count in prefix_counts(tensors, expected).items()
        if count >= max(1, len(expected) / 2)
    }
    if len(matches) > 1:
        places = ", ".join(sorted(f"{part}{prefix}*" for part, prefix in matches))
        raise SettingError("weights", f"={file} holds several networks ({places}); save the tensors of one in a file")
    if not matches:
        largest = max(parts.values(), key=len)
        check_not_hugging_face(file, largest)
        return largest
    [(part, prefix)] = matches
    return {name.removeprefix(prefix): tensor for name, tensor in parts[part].items()}


def read_payload(file: Path) -> Any:
    """Returns what a safetensors or pickle file holds. It never runs pickled code.

    Raises:
        SettingError: If the file cannot be read as tensors, or has an unknown suffix.
    """
    suffix = file.suffix.lower()
    if suffix not in (".safetensors", *PICKLED):
        raise SettingError(
            "weights", f"={file}: the suffix must be .safetensors, .npz, .pth, .pt, .bin, .ckpt or .pth.tar"
        )
    try:
        if suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        if classes := unsafe_classes(file):
            raise SettingError(
                "weights",
                f"={file} cannot be read as tensors: it contains more than tensors ({', '.join(classes)}), which may "
                f"run code; if you trust it, save its tensors alone in another file",
            ) from error
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise SettingError("weights", f"={file} cannot be read as tensors ({reason}); it may be truncated") from error


def unsafe_classes(file: Path) -> list[str]:
    """Returns the classes and functions in a pickle file that it would call, or nothing if they cannot be listed."""
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception:  # it is no such file
        return []


def tensor_dicts(payload: Any, path: str = "") -> Iterator[tuple[str, Tensors]]:
    """Yields each dict in a nested dict that holds tensors by name, with its path, as in "model."."""
    if not isinstance(payload, Mapping):
        return
    named = {name: value for name, value in payload.items() if isinstance(name, str)}
    if tensors := {name: value.detach() for name, value in named.items() if isinstance(value, Tensor)}:
        yield path, tensors
    for name, value in named.items():
        yield from tensor_dicts(value, f"{path}{name}.")


def prefix_counts(tensors: Tensors, expected: Collection[str]) -> Counter[str]:
    """Returns how many of the expected names the tensors have with each prefix, none included."""
    counts: Counter[str] = Counter()
    for name in tensors:
        starts = [0, *(index + 1 for index, letter in enumerate(name) if letter == ".")]
        counts.update(name[:start] for start in starts if name[start:] in expected)
    return counts


def check_not_hugging_face(file: Path, tensors: Tensors) -> None:
    """Raises `SettingError` if the names are those of Hugging Face's transformers, which timm does not read."""
    if all(any(name.endswith(end) for name in tensors) for end in HUGGING_FACE):
        raise SettingError(
            "weights",
            f"={file} has the names of Hugging Face's transformers, not timm's; give the file of the timm release "
            f"of these weights (huggingface.co/timm)",
        )
