"""What a cell costs: its floating-point operations, counted, and its seconds at rates that records measured."""

import copy
import json
import statistics
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from moppa.backbone.model import Backbone
from moppa.data.task import BASE_SPLITS
from moppa.peft.collect import penalty
from moppa.utils.config import call_with_supported

NUM_CLASSES = 10  # the head's share is below a thousandth, and one count serves all tasks


def cell_flops(config: Mapping[str, Any]) -> float:
    """The floating-point operations of a cell: all steps forward and backward, and all images that are read after."""
    backbone = {name: value for name, value in config["backbone"].items() if name not in ("_target_", "weights")}
    step, look = flops_per_image(json.dumps(backbone), json.dumps(config["method"]["attach"]))
    sizes = {"train800": 800, "val200": 200, "test": config["task"]["num_test"]}
    protocol, epochs = config["protocol"], config["train"]["epochs"]
    num_train, num_read = (sum(sizes[part] for part in BASE_SPLITS[protocol[split]]) for split in ("train", "evaluate"))
    every = protocol.get("every")
    num_readings = 1 + (-(-epochs // every) if every else 0)
    return epochs * num_train * step + num_readings * num_read * look


@lru_cache
def flops_per_image(backbone: str, attach: str) -> tuple[float, float]:
    """The operations of one training image, forward and backward, and of one that is looked at.

    Both are given as JSON. The count runs without data or arithmetic where the method lets it, else on the CPU.
    """
    model = bare(backbone)
    size = model.pretrained_cfg["input_size"][-1]
    images, labels = torch.zeros(2, 3, size, size), torch.zeros(2, dtype=torch.long)
    call_with_supported(
        instantiate(json.loads(attach), _partial_=True, _convert_="all"),
        model,
        generator=torch.Generator().manual_seed(0),
        examples=lambda: iter([(images, labels)]),
    )
    try:
        return counted(copy.deepcopy(model).to("meta"), images.to("meta"), labels.to("meta"))
    except RuntimeError:  # an operation that only a real device has
        return counted(model, images, labels)


@lru_cache(maxsize=1)
def loaded(backbone: str) -> nn.Module:
    """A frozen backbone with random weights; nobody may touch it."""
    return Backbone(**json.loads(backbone), weights="random").bare(drop_path=0.0).requires_grad_(False)


def bare(backbone: str) -> nn.Module:
    """A frozen backbone with a fresh head."""
    model = copy.deepcopy(loaded(backbone))
    model.reset_classifier(NUM_CLASSES)
    return model


def counted(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Operations an image, of a training step and of a forward."""
    with counter() as step:
        (F.cross_entropy(model.train()(images), labels) + penalty(model, 0.0)).backward()
    with counter() as look, torch.no_grad():
        model.eval()(images)
    return step.get_total_flops() / len(images), look.get_total_flops() / len(images)


def counter() -> FlopCounterMode:
    """Counts over the whole model; told by modules, it would need every one to have a gradient."""
    mode = FlopCounterMode(display=False)
    mode.mod_tracker = Whole()  # type: ignore[assignment]
    return mode


class Whole:
    """Knows no modules."""

    parents = frozenset({"Global"})

    def __enter__(self) -> "Whole":
        return self

    def __exit__(self, *_: object) -> None:
        """Forgets nothing."""


class Throughput:
    """Operations a second that records measured on a device, of the most similar cells that there are.

    `measured` holds those that were asked for: the median and how many records it is of, by what makes cells alike.
    """

    NUM_SAMPLES = 5

    def __init__(self, records: Iterable[Mapping[str, Any]], device: Mapping[str, Any]) -> None:
        self.samples: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        self.measured: dict[tuple[str, ...], tuple[float, int]] = {}
        for one in records:
            if all(one["device"][name] == device[name] for name in ("type", "name")):
                for kind in kinds_of(one["config"]):
                    self.samples.setdefault(kind, []).append(one)

    def seconds_of(self, config: Mapping[str, Any], flops: float) -> tuple[float, str] | None:
        """The seconds that a cell will take, and what that was measured on; None where nothing was on this device."""
        words = ("the same method", "the same backbone", "other backbones")
        for kind, what in zip(kinds_of(config), words, strict=True):
            if kind in self.samples:
                return flops / self.rate(kind), what
        return None

    def rate(self, kind: tuple[str, ...]) -> float:
        """The median of some records of a kind, taken evenly from all there are."""
        if kind not in self.measured:
            every = -(-len(self.samples[kind]) // self.NUM_SAMPLES)
            taken = self.samples[kind][::every]
            self.measured[kind] = statistics.median(map(rate_of, taken)), len(taken)
        return self.measured[kind][0]


def rate_of(one: Mapping[str, Any]) -> float:
    """The operations a second of one record."""
    return cell_flops(one["config"]) / (one["seconds"]["train"] + one["seconds"]["evaluate"])


def kinds_of(config: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What cells resemble each other by, from near to far."""
    size = str(config["backbone"]["image_size"])
    near = (config["backbone"]["name"], size, config["method"]["name"])
    return [near, near[:2], ()]
