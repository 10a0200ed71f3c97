"""Exports a finished cell as an adapter of HF peft: LoRA, DoRA or LN tuning, with the head among `modules_to_save`.

A method whose update of a weight is B A is a LoRA to peft, however it computes A and B. peft adapts a layer that
stacks q, k and v as one: the A of the adapted matrices are stacked, and B is block diagonal, so that the ranks add up.
"""

import copy
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from moppa.export.facts import TOLERANCE
from moppa.peft.inject import ParametrizedLinear, merge
from moppa.peft.low_rank import LowRankDelta, layer_factors, only_delta
from moppa.record.trained import Finished
from moppa.utils.atomic import atomic_write, write_json
from moppa.utils.errors import UserError

PREFIX = "base_model.model."  # of every name in a file of peft


@dataclass(frozen=True, kw_only=True)
class LayerUpdate:
    """The update of one linear layer, W' = m (W + (alpha / r) B A) / ||W + (alpha / r) B A||; without m, no division.

    `magnitude` (d_out,) is m; `dropout` acts on what A reads, in training.
    """

    down: Tensor
    up: Tensor
    alpha: float
    dropout: float
    magnitude: Tensor | None

    @property
    def rank(self) -> int:
        return len(self.down)


def check_peft_path(out: Path) -> None:
    """Raises `UserError` if peft could not read the path: it reads a folder."""
    if out.is_file() or out.suffix in (".safetensors", ".bin", ".pth", ".pt"):
        raise UserError(f"{out}: HF peft reads a folder with a config and weights; give a folder")


def write_peft(finished: Finished, out: Path) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors` to the folder `out`.

    `peft.PeftModel.from_pretrained(timm_model, out)` reads them.

    Raises:
        UserError: if peft has no such method.
    """
    quantize = finished.record["config"]["backbone"].get("quantize")
    if quantize is not None:
        raise UserError(
            f"the adapter belongs to a backbone with backbone.quantize={quantize}, and peft would add it to the "
            f"pretrained one: --to timm writes the backbone too"
        )
    config, tensors = adapter_of(finished)
    head = head_name(finished.model)
    tensors |= {f"{head}.{name}": tensor for name, tensor in finished.model.get_submodule(head).state_dict().items()}
    timm_name = finished.record["config"]["backbone"]["timm"]
    config |= {
        "base_model_name_or_path": f"timm/{timm_name}",
        "inference_mode": True,
        "modules_to_save": [head],
        "task_type": None,
    }
    named = {PREFIX + name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with atomic_write(out / "adapter_model.safetensors") as temporary:
        safetensors.torch.save_file(named, temporary, metadata={"format": "pt"})
    write_json(out / "adapter_config.json", config)


@torch.no_grad()
def adapter_of(finished: Finished) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns peft's config of the method and its tensors by the names of timm's modules, without the head.

    Raises:
        UserError: if peft has no such method.
    """
    model, method = finished.model, finished.record["method"]
    updates = {
        name: layer_update(layer, delta)
        for name, layer in model.named_modules()
        if isinstance(layer, ParametrizedLinear) and (delta := only_delta(layer)) is not None
    }
    merged, pretrained = merge(copy.deepcopy(model)).state_dict(), finished.backbone.state_dict()
    if merged.keys() != pretrained.keys():
        raise no_such_method(method, "it changes activations, or adds tensors")
    head = head_name(model)
    expected = {
        f"{name}.weight": updated_weight(pretrained[f"{name}.weight"], update) for name, update in updates.items()
    }
    changed = [name for name in merged if not name.startswith(f"{head}.") and not merged[name].equal(pretrained[name])]
    others = [name for name in changed if name not in expected]
    if not (changed or updates):
        raise no_such_method(method, "it changes the head alone")
    if updates and not others:
        for name, weight in expected.items():
            if (weight - merged[name]).abs().max() > TOLERANCE * merged[name].abs().max():
                raise RuntimeError(f"the low-rank factors of {name} are not those of its weight")
        return low_rank_config(updates), low_rank_tensors(updates)
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    tensors = {f"{name}.{tensor}": merged[f"{name}.{tensor}"] for name in norms for tensor in ("weight", "bias")}
    if not updates and set(others) <= tensors.keys():
        return norm_config(norms), {norm_tensor_name(name): tensor for name, tensor in tensors.items()}
    raise no_such_method(method, f"it changes {others[0]}")


def no_such_method(method: str, reason: str) -> UserError:
    """Returns the error for a method that peft lacks."""
    return UserError(f"HF peft has no method like {method} ({reason}): --to onnx writes the graph of any method")


def layer_update(layer: Any, delta: LowRankDelta) -> LayerUpdate:
    """Returns the update of a layer as peft computes it."""
    down, up = layer_factors(delta)
    weight = layer.pretrained("weight")
    scale = getattr(delta, "scale", 1.0)
    gains = delta.gains(weight)
    magnitude = None if gains is None else gains.flatten() * torch.linalg.vector_norm(weight + up @ down, dim=1)
    return LayerUpdate(down=down, up=up / scale, alpha=scale * len(down), dropout=delta.dropout, magnitude=magnitude)


def updated_weight(weight: Tensor, update: LayerUpdate) -> Tensor:
    """Returns W'."""
    changed = weight + update.alpha / update.rank * (update.up @ update.down)
    if update.magnitude is None:
        return changed
    return (update.magnitude / torch.linalg.vector_norm(changed, dim=1))[:, None] * changed


def low_rank_config(updates: Mapping[str, LayerUpdate]) -> dict[str, Any]:
    """Returns peft's config of LoRA, or of DoRA if there are magnitudes."""
    ranks = {name: update.rank for name, update in updates.items()}
    alphas = {name: update.alpha for name, update in updates.items()}
    [(rank, _)], [(alpha, _)] = Counter(ranks.values()).most_common(1), Counter(alphas.values()).most_common(1)
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "target_modules": list(updates),
        "use_dora": any(update.magnitude is not None for update in updates.values()),
        "lora_dropout": max(update.dropout for update in updates.values()),
        "bias": "none",
        "fan_in_fan_out": False,
    }


def low_rank_tensors(updates: Mapping[str, LayerUpdate]) -> dict[str, Tensor]:
    """Returns the tensors of LoRA or DoRA by peft's names."""
    tensors = {}
    for name, update in updates.items():
        tensors |= {f"{name}.lora_A.weight": update.down, f"{name}.lora_B.weight": update.up}
        if update.magnitude is not None:
            tensors[f"{name}.lora_magnitude_vector"] = update.magnitude
    return tensors


def norm_config(norms: list[str]) -> dict[str, Any]:
    """Returns peft's config of LN tuning. Of a list of names peft would also take modules that end in one of them."""
    return {"peft_type": "LN_TUNING", "target_modules": "|".join(map(re.escape, norms))}


def norm_tensor_name(name: str) -> str:
    """Returns the name in peft of a tensor of a LayerNorm."""
    module, _, tensor = name.rpartition(".")
    return f"{module}.ln_tuning_layers.{tensor}"


def head_name(model: Any) -> str:
    """Returns the name of the classification head among the model's modules."""
    head = model.get_classifier()
    return next(name for name, module in model.named_modules() if module is head)
