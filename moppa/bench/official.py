"""Compares the methods with their authors' code: the same tensors in, logits and input gradients out, in float64.

The file of reference holds what the authors' code computed on timm's vit_tiny_patch16_224 with three blocks.
"""

import copy
import csv
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from moppa.peft.collect import trainable_parameters
from moppa.peft.method import attach_method
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS, ROOT

CASES = ROOT / "results" / "official.csv"
COLUMNS: tuple[str, ...] = ("case", "method", "settings", "source", "compared_with", "logits", "input_gradient")
STRIDE = 16  # of the pixels whose gradient the reference holds


class Reference:
    """The reference file: backbones, images, and for every case the trained tensors and what came out."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"{path}: no such file; it holds what the authors' code computed, and is not distributed")
        self.arrays: Any = np.load(path)
        self.index = {case["case"]: case for case in json.loads(str(self.arrays["index"]))}
        self.backbones: dict[str, nn.Module] = {}

    @cached_property
    def images(self) -> Tensor:
        """The images (3, 3, 224, 224), of classes 0, 1 and 2."""
        return torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(5)).double()

    def backbone(self, pool: str) -> nn.Module:
        """Returns a frozen copy of the backbone whose head reads the class token or an average."""
        if pool not in self.backbones:
            model = timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=10, global_pool=pool).double().eval()
            state = {name: self.tensor(key) for key, name in self.base_tensors(pool) if name in model.state_dict()}
            missing = model.load_state_dict(state, strict=False).missing_keys
            if unknown := [name for name in missing if not name.startswith("head")]:
                raise UserError(f"the reference has no {', '.join(unknown)}")
            self.backbones[pool] = model.requires_grad_(False)
        model = copy.deepcopy(self.backbones[pool])
        model.get_submodule("head").requires_grad_(True)
        return model

    def base_tensors(self, pool: str) -> Iterator[tuple[str, str]]:
        """Yields key and name of the backbone's tensors; average pooling replaces some of them."""
        for group in ("token", pool):
            prefix = f"base/{group}/"
            yield from ((key, key.removeprefix(prefix)) for key in self.arrays.files if key.startswith(prefix))

    def tensor(self, key: str) -> Tensor:
        """Returns an array of the file as a tensor."""
        return torch.from_numpy(self.arrays[key])


def read_cases(path: Path = CASES) -> list[dict[str, str]]:
    """Returns the compared cases: the method, its settings beside those of its YAML, and the errors measured last."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; the cases are part of a checkout of the repository")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_cases(cases: list[dict[str, str]], path: Path = CASES) -> None:
    """Writes the cases with their errors."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(cases)


def measure(case: Mapping[str, str], reference: Reference) -> dict[str, float]:
    """Returns the largest differences from the authors' logits and input gradients, over their largest values."""
    theirs = reference.index[case["case"]]
    model = reference.backbone(theirs["pool"])
    method = OmegaConf.load(CONFIGS / "method" / f"{case['method']}.yaml")
    settings = OmegaConf.from_dotlist([f"attach.{setting}" for setting in case["settings"].split()])
    attach = instantiate(OmegaConf.merge(method, settings), "attach", _partial_=True)  # type: ignore[arg-type]
    attach_method(model, attach, generator=torch.Generator().manual_seed(0), examples=list)
    model = model.double().eval()

    parameters = list(trainable_parameters(model).values())
    with torch.no_grad():
        for index, parameter in enumerate(parameters):
            parameter.copy_(reference.tensor(f"{case['case']}/param{index:03d}"))
    if len(parameters) != len(theirs["params"]):
        raise UserError(f"{case['case']}: {case['method']} trains {len(parameters)} tensors, theirs {theirs['params']}")

    images = reference.images.clone().requires_grad_(True)
    logits = model(images)
    [gradient] = torch.autograd.grad(F.cross_entropy(logits, torch.arange(3)), [images])
    found = {"logits": logits.detach(), "input_gradient": gradient[:, :, ::STRIDE, ::STRIDE]}
    expected = {"logits": "logits", "input_gradient": "input_grad_strided"}
    return {name: error(tensor, reference.tensor(f"{case['case']}/{expected[name]}")) for name, tensor in found.items()}


def error(actual: Tensor, expected: Tensor) -> float:
    """Returns the largest absolute difference over the largest absolute value."""
    return float((actual - expected).abs().max() / expected.abs().max())
