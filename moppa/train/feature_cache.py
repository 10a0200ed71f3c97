"""Where only the head is trained, what it reads of an image never changes: computed once and kept beside the store.

All seeds, rates and schedules of a linear probe on one task and backbone share these features, so that a cell takes
seconds. The protocol stays the loop's own: the same batches in the same order, the same schedule, the same head.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.backbone.model import Preprocess
from moppa.data.cache import Split
from moppa.data.images import hash_array
from moppa.peft.collect import trains_only_head
from moppa.train.evaluate import run_batches
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError
from moppa.utils.matmul import matmul_backend
from moppa.utils.provenance import versions

COUNTED_VERSIONS = ("torch", "timm")  # what can move a feature's last bits

Load = Callable[[str], Split]
Normalize = Callable[[Tensor], Tensor]


class LinearProbe(nn.Module):
    """The head of a model, which it shares, reading features (B, D)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.head = model.get_classifier()

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        return self.head(features)


def use_cached_features(
    model: nn.Module,
    load: Load,
    preprocess: Preprocess,
    *,
    kept_in: str | None,
    of: dict[str, str],
    batch_size: int | None,
) -> tuple[nn.Module, Load, Normalize]:
    """What to train, how to load a split for it and how to normalize its batches.

    Where a method trains more than the head, that is what was given; else the head, with splits that hold features
    (N, D) float32 in the place of images, computed by the frozen backbone as at a test. They are kept in the store
    `kept_in`, under all that decides them; `of` names the backbone. Where it is None, nothing changes.
    """
    if kept_in is None or not trains_only_head(model):
        return model, load, preprocess.normalize
    device = model.get_classifier().weight.device
    facts = {
        **of,
        "size": preprocess.size,
        "pool": preprocess.pool,
        "mean": preprocess.mean,
        "std": preprocess.std,
        "device": device.type,  # they are computed in its own arithmetic
        "products": matmul_backend(),
        "versions": {name: versions()[name] for name in COUNTED_VERSIONS},
    }

    def load_features(split: str) -> Split:
        asked = load(split)
        described = json.dumps({**facts, "images": asked.digest}, sort_keys=True)
        file = (
            Path(kept_in).expanduser()
            / "features"
            / f"{hashlib.sha256(described.encode()).hexdigest()[:16]}.safetensors"
        )
        if not file.exists():
            features = compute_features(model, asked.images, preprocess=preprocess, batch_size=batch_size)
            write_features(file, features, described)
        return Split(images=read_features(file), labels=asked.labels, digest=asked.digest)

    return LinearProbe(model), load_features, Tensor.float


@torch.inference_mode()
def compute_features(
    model: nn.Module, images: np.ndarray, *, preprocess: Preprocess, batch_size: int | None
) -> Float[Tensor, "count dim"]:
    """What the head would read of images (N, S, S, 3) uint8, in float32 on the CPU."""

    def features(batch: Tensor) -> Tensor:
        stock: Any = model
        return stock.forward_head(stock.forward_features(batch), pre_logits=True)

    batches = run_batches(
        model, features, images, normalize=preprocess.normalize, batch_size=batch_size, title="features"
    )
    return torch.cat([found.float() for found in batches]).cpu()


def write_features(file: Path, features: Float[Tensor, "count dim"], described: str) -> None:
    """Writes features with what they are of and their digest."""
    metadata = {"of": described, "sha256": hash_array(features.numpy()).hex()}
    with atomic_write(file) as temporary:
        safetensors.torch.save_file({"features": features}, temporary, metadata=metadata)


def read_features(file: Path) -> np.ndarray:
    """Features (N, D) float32 as they were written, or an error that names the file."""
    try:
        with safetensors.safe_open(file, framework="np") as opened:
            features, metadata = opened.get_tensor("features"), opened.metadata()
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"the features in {file} cannot be read ({error}); delete that file") from error
    if hash_array(features).hex() != metadata["sha256"]:
        raise UserError(f"the features in {file} are not those that were computed; delete that file")
    return features
