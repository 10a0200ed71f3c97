"""What an exported file says about itself, and images to compare two models with."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.record.trained import Finished
from moppa.utils.seeds import generator_for

TOLERANCE = 1e-4  # of the logits, relative to the largest: float32 sums in another order


def metadata_of(finished: Finished) -> dict[str, str]:
    """Returns what is needed to use an exported model: the timm model, its classes, its images, and its record."""
    record = finished.record
    preprocess = record["preprocess"]
    return {
        "timm": record["config"]["backbone"]["timm"],
        "num_classes": str(record["config"]["task"]["num_classes"]),
        "image_size": str(finished.image_size),
        "mean": " ".join(map(str, preprocess["mean"])),
        "std": " ".join(map(str, preprocess["std"])),
        "interpolation": preprocess["interpolation"],
        "method": record["method"],
        "task": record["task"],
        "key": record["key"],
        "seed": str(record["seed"]),
    }


def example_images(finished: Finished) -> Float[Tensor, "2 3 size size"]:
    """Returns two normalized images of noise, always the same."""
    size = finished.image_size
    return torch.randn(2, 3, size, size, generator=generator_for(0, "export"))


def check_logits(actual: Tensor, expected: Tensor) -> None:
    """Raises RuntimeError if an exported model has other logits than the trained one."""
    difference = float((actual - expected).abs().max() / expected.abs().max())
    if not difference < TOLERANCE:
        raise RuntimeError(f"the export changed the logits by {difference:.1e} of the largest")


def timm_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `timm.create_model`, after the name, for the record's backbone and classes."""
    config = record["config"]["backbone"]
    settings = {"num_classes": record["config"]["task"]["num_classes"]}
    settings |= {} if config["pool"] is None else {"global_pool": config["pool"]}
    if timm.get_pretrained_cfg_value(config["timm"], "fixed_input_size"):
        settings["img_size"] = config["image_size"]
    return settings


def plain_model(record: Mapping[str, Any]) -> nn.Module:
    """Returns what `timm.create_model` gives for the record's backbone, without any code of this project."""
    return timm.create_model(record["config"]["backbone"]["timm"], **timm_settings(record)).eval()
