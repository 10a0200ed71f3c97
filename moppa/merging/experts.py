"""Experts: finished cells whose method is a weight, as deltas to the pretrained backbone and heads."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moppa.merging.updates import LowRank, StoredDelta, Update, dense
from moppa.peft.collect import trains_only_head
from moppa.peft.inject import ParametrizedLinear, merge
from moppa.peft.low_rank import layer_factors, only_delta
from moppa.record.cell import Cell
from moppa.record.parts import instantiate_parts
from moppa.record.trained import Finished, load_finished
from moppa.utils.errors import UserError
from moppa.utils.seeds import generator_for

TOLERANCE = 1e-4  # of a logit or a weight, relative to the largest: float32 sums in another order


@dataclass(frozen=True, kw_only=True)
class Expert:
    """What a finished cell trained: the delta of the backbone, and the head by `weight` and `bias`."""

    delta: StoredDelta
    head: Mapping[str, Tensor]
    record: Mapping[str, Any]


def load_expert(path: Path, folder: Path, *, weights: str | None = None) -> Expert:
    """Returns the expert of a record. Its delta is stored in `folder`.

    Raises:
        UserError: if the trained tensors were not kept, or the method is not a weight.
    """
    finished = load_finished(path, weights=weights)
    head: Any = finished.model.get_submodule(head_name(finished.backbone))
    tensors = {name: tensor.detach().clone() for name, tensor in head.state_dict().items()}
    delta = StoredDelta(folder)
    for name, update in delta_of(finished).items():
        delta.store(name, update)
    return Expert(delta=delta, head=tensors, record=finished.record)


@torch.no_grad()
def delta_of(finished: Finished) -> dict[str, Update]:
    """Returns the merged weights minus the pretrained ones, of the tensors that differ, without the head.

    A layer that a low-rank delta alone changes is given by its factors.

    Raises:
        UserError: if the method cannot be merged into the weights, or trains the head alone.
    """
    method, backbone = finished.record["method"], finished.backbone
    factors = low_rank_updates(finished.model)
    pretrained, head = backbone.state_dict(), head_name(backbone)
    merged = merge(copy.deepcopy(finished.model)).state_dict()
    check_names(method, merged, pretrained)
    delta: dict[str, Update] = {
        name: tensor - pretrained[name]
        for name, tensor in merged.items()
        if not name.startswith(f"{head}.") and not tensor.equal(pretrained[name])
    }
    if not delta:
        raise nothing_to_merge(method)
    check_logits(finished, merged)
    for name, update in factors.items():
        if name in delta and (dense(update) - dense(delta[name])).abs().max() <= TOLERANCE * merged[name].abs().max():
            delta[name] = update
    return delta


def check_method(cell: Cell) -> None:
    """Raises `UserError` before any expert is trained if the method of a cell is not a weight."""
    parts = instantiate_parts(cell)
    if parts.backbone.is_calibrated:
        raise UserError(
            "experts have no common backbone if each is quantized by the images of its task: set "
            "backbone.quantize_rounds=0, and backbone.quantize to int8, int4 or null"
        )
    model, method = parts.attached(torch.device("cpu")).model, cell.config["method"]["name"]
    if trains_only_head(model):
        raise nothing_to_merge(method)
    check_names(method, merge(model).state_dict(), parts.build_model().state_dict())


def check_names(method: str, merged: Mapping[str, Tensor], pretrained: Mapping[str, Tensor]) -> None:
    """Raises `UserError` if a merged model has other tensors than the pretrained one."""
    if merged.keys() != pretrained.keys():
        raise UserError(
            f"{method} is not a weight: it changes activations or adds tensors, so that there is no delta to merge; "
            f"choose a method that merges into the weights, such as lora, ssf or full"
        )


def nothing_to_merge(method: str) -> UserError:
    """Returns the error for a method that leaves the backbone as it is."""
    return UserError(f"{method} changes no tensor of the backbone, so that there is nothing to merge: choose another")


def low_rank_updates(model: nn.Module) -> dict[str, LowRank]:
    """Returns the factors of the weights that a low-rank delta alone changes, and does not scale."""
    updates = {}
    for name, layer in model.named_modules():
        delta = only_delta(layer) if isinstance(layer, ParametrizedLinear) else None
        if isinstance(layer, ParametrizedLinear) and delta and delta.gains(layer.pretrained("weight")) is None:
            down, up = layer_factors(delta)
            updates[f"{name}.weight"] = LowRank(up.detach().clone(), down.detach().clone())
    return updates


def check_logits(finished: Finished, merged: Mapping[str, Tensor]) -> None:
    """Raises `UserError` unless the pretrained architecture with the merged weights gives the expert's logits."""
    plain = copy.deepcopy(finished.backbone)
    plain.load_state_dict(dict(merged))
    size = finished.image_size
    images = torch.randn(2, 3, size, size, generator=generator_for(0, "merging"))
    expected = finished.model.eval()(images)
    difference = float((plain.eval()(images) - expected).abs().max() / expected.abs().max())
    if not difference < TOLERANCE:
        raise UserError(
            f"{finished.record['method']} is not a weight: its merged weights give other logits, by {difference:.1e} "
            f"of the largest; choose a method that merges into the weights, such as lora, ssf or full"
        )


def head_name(model: Any) -> str:
    """Returns the name of the classification head among the model's modules."""
    head = model.get_classifier()
    return next(name for name, module in model.named_modules() if module is head)
