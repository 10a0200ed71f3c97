"""Exports a finished cell as the state dict of a plain timm model, with its method merged into the weights."""

from pathlib import Path

import safetensors.torch
import torch

from moppa.export.facts import check_logits, example_images, metadata_of, plain_model
from moppa.peft.inject import merge
from moppa.record.trained import Finished
from moppa.record.trained_file import trained_path
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def check_timm_path(out: Path) -> None:
    """Raises `UserError` if timm would not read a file of that suffix."""
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out}: timm tells weights by their suffix; choose one of {', '.join(SUFFIXES)}")


def write_timm(finished: Finished, out: Path) -> None:
    """Writes the merged weights to a file that plain timm loads strictly: safetensors, or a .pth.

    Raises:
        UserError: if the method cannot be merged into the weights.
    """
    model, record = finished.model, finished.record
    timm_model, images = plain_model(record), example_images(finished)
    with torch.no_grad():
        expected = model(images)
        merge(model)
        if model.state_dict().keys() != timm_model.state_dict().keys():
            raise UserError(
                f"{record['method']} cannot be merged into the weights of a plain timm model, because it changes "
                f"activations; its trained tensors are in {trained_path(finished.path)}; --to onnx writes its graph"
            )
        timm_model.load_state_dict(model.state_dict())
        check_logits(timm_model(images), expected)
    metadata = metadata_of(finished)
    with atomic_write(out) as temporary:
        tensors = {name: tensor.contiguous() for name, tensor in timm_model.state_dict().items()}
        if out.suffix == ".safetensors":
            safetensors.torch.save_file(tensors, temporary, metadata=metadata)
        else:
            with temporary.open("wb") as file:
                torch.save({"state_dict": tensors, "metadata": metadata}, file)
