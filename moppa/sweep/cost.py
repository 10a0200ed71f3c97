"""The cost of a cell: its floating-point operations, and the seconds that they take according to earlier records."""

import copy
import json
import statistics
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from moppa.backbone.model import Backbone
from moppa.data.task import BASE_SPLITS
from moppa.peft.collect import penalty
from moppa.peft.method import attach_method, ignore_records
from moppa.utils.config import instantiate

NUM_CLASSES = 10  # the head takes under a thousandth of the operations, so one count serves all tasks


def cell_flops(config: Mapping[str, Any]) -> float:
    """Returns the operations of a cell: forward and backward in training, forward for every evaluated image."""
    backbone = {name: value for name, value in config["backbone"].items() if name not in ("_target_", "weights")}
    training_flops, evaluation_flops = flops_per_image(json.dumps(backbone), json.dumps(config["method"]["attach"]))
    task = config["task"]
    num_images = {"train800": task.get("num_train", 800), "val200": task.get("num_val", 200), "test": task["num_test"]}
    protocol, epochs = config["protocol"], config["train"]["epochs"]
    num_train, num_evaluated = (
        sum(num_images[name] for name in BASE_SPLITS[protocol[split]]) for split in ("train", "evaluate")
    )
    if protocol.get("shots") is not None:
        num_train = protocol["shots"] * task["num_classes"]
    num_train = config["train"].get("epoch_images") or num_train
    every = protocol.get("every")
    num_evaluations = 1 + (-(-epochs // every) if every else 0)
    return epochs * num_train * training_flops + num_evaluations * num_evaluated * evaluation_flops


@lru_cache
def flops_per_image(backbone: str, attach: str) -> tuple[float, float]:
    """Returns the operations per image of a training step (forward and backward) and of an evaluation (forward).

    Both arguments are JSON, because a cache needs hashable ones. The model runs on the meta device, without data or
    arithmetic, or on the CPU if one of its operations does not support that device.
    """
    model = frozen_backbone(backbone)
    size = model.pretrained_cfg["input_size"][-1]
    images, labels = torch.zeros(2, 3, size, size), torch.zeros(2, dtype=torch.long)
    method = instantiate(OmegaConf.create({"attach": json.loads(attach)}), "attach", _partial_=True)
    attach_method(
        model,
        method,
        generator=torch.Generator().manual_seed(0),
        examples=lambda: iter([(images, labels)]),
        finished=ignore_records,
    )
    try:
        return count_flops(copy.deepcopy(model).to("meta"), images.to("meta"), labels.to("meta"))
    except RuntimeError:  # an operation without a meta kernel
        return count_flops(model, images, labels)


def frozen_backbone(backbone: str) -> Any:
    """Returns a frozen backbone with random weights and a trainable head."""
    model = copy.deepcopy(shared_backbone(backbone))
    model.reset_classifier(NUM_CLASSES)
    return model


@lru_cache(maxsize=1)
def shared_backbone(backbone: str) -> Any:
    """Returns a frozen backbone with random weights, built once. Copy it before you change it."""
    return Backbone(**json.loads(backbone), weights="random").create_model(drop_path=0.0).requires_grad_(False)


def count_flops(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Returns the operations per image of a training step and of an evaluation of `model`."""
    with flop_counter() as training:
        (F.cross_entropy(model.train()(images), labels) + penalty(model, 0.0)).backward()
    with flop_counter() as evaluation, torch.no_grad():
        model.eval()(images)
    return training.get_total_flops() / len(images), evaluation.get_total_flops() / len(images)


def flop_counter() -> FlopCounterMode:
    """Returns a counter of the whole model's operations. A count per module would need a gradient in every module."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModuleTracker()  # type: ignore[assignment]
    return counter


class NoModuleTracker:
    """Replaces torch's tracker of modules: attributes every operation to the whole model."""

    parents = frozenset({"Global"})

    def __enter__(self) -> "NoModuleTracker":
        return self

    def __exit__(self, *_: object) -> None: ...


class Throughput:
    """Operations per second on one device, taken from the records of the most similar cells.

    `medians` holds those that `predict_seconds` has used so far: the median and the number of its records, by kind of
    cell.
    """

    NUM_SAMPLES = 5

    def __init__(self, records: Iterable[Mapping[str, Any]], device: Mapping[str, Any]) -> None:
        self.records: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        self.medians: dict[tuple[str, ...], tuple[float, int]] = {}
        for record in records:
            if all(record["device"][name] == device[name] for name in ("type", "name")):
                for kind in cell_kinds(record["config"]):
                    self.records.setdefault(kind, []).append(record)

    def predict_seconds(self, config: Mapping[str, Any], flops: float) -> tuple[float, str] | None:
        """Returns the seconds that a cell will take and what they were measured on, or None without such a record."""
        descriptions = ("the same method", "the same backbone", "other backbones")
        for kind, description in zip(cell_kinds(config), descriptions, strict=True):
            if kind in self.records:
                return flops / self.flops_per_second(kind), description
        return None

    def flops_per_second(self, kind: tuple[str, ...]) -> float:
        """Returns the median over up to `NUM_SAMPLES` records of a kind, evenly spaced among them."""
        if kind not in self.medians:
            step = -(-len(self.records[kind]) // self.NUM_SAMPLES)
            samples = self.records[kind][::step]
            self.medians[kind] = statistics.median(map(record_flops_per_second, samples)), len(samples)
        return self.medians[kind][0]


def record_flops_per_second(record: Mapping[str, Any]) -> float:
    """Returns the operations per second of a record's training and evaluation."""
    return cell_flops(record["config"]) / (record["seconds"]["train"] + record["seconds"]["evaluate"])


def cell_kinds(config: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns the kinds that a cell belongs to, from the most to the least similar cells."""
    size = str(config["backbone"]["image_size"])
    same_method = (config["backbone"]["name"], size, config["method"]["name"])
    return [same_method, same_method[:2], ()]
