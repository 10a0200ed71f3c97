"""Cached features for a linear probe.

If only the head is trained, the features of an image never change. They are computed once per image and cached on disk,
where all seeds and settings on one task and backbone share them: a cell then takes seconds. Training and evaluation are
the same as without the cache.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.backbone.preprocess import Preprocess
from moppa.data.images import hash_array
from moppa.data.split import Split
from moppa.data.task_data import TaskData
from moppa.peft.collect import trains_only_head
from moppa.train.augmentation import Augmenter
from moppa.train.evaluate import Evaluator
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError
from moppa.utils.gpu import DTYPES, precision_name
from moppa.utils.matmul import matmul_backend
from moppa.utils.provenance import versions

COUNTED_VERSIONS = ("torch", "timm")  # the packages that can change the last bits of a feature


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is trained and evaluated: a model, how its splits are loaded, and how a batch is normalized.

    `augment` augments and normalizes the training images, if they are augmented.
    """

    model: nn.Module
    load: Callable[[str], Split]
    normalize: Callable[[Tensor], Tensor]
    augment: Augmenter | None = None


class LinearProbe(nn.Module):
    """The head of a model, which it shares, applied to features (B, D)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.head = model.get_classifier()

    def get_classifier(self) -> nn.Module:
        """Returns the head."""
        return self.head

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        return self.head(features)


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """A folder of cached features, or None to keep no file. `backbone` identifies architecture and weights."""

    folder: Path | None
    backbone: dict[str, str]
    batch_size: int | None
    precision: str = "auto"

    def inputs(self, model: Any, data: TaskData, preprocess: Preprocess) -> Inputs:
        """Returns the head and splits of features (N, D) float32, which the frozen backbone computes in eval mode."""

        def load_features(split: str) -> Split:
            images = data.load(split)
            features = self.read_or_compute(model, images, preprocess)
            return Split(images=features, labels=images.labels, digest=images.digest)

        return Inputs(model=LinearProbe(model), load=load_features, normalize=Tensor.float)

    def read_or_compute(self, model: Any, images: Split, preprocess: Preprocess) -> np.ndarray:
        """Returns a split's features (N, D) float32, from the file if there is one."""
        if self.folder is None:
            return self.compute(model, images.images, preprocess).numpy()
        description = self.describe(images, preprocess, model.get_classifier().weight.device)
        file = self.folder / f"{hashlib.sha256(description.encode()).hexdigest()[:16]}.safetensors"
        if not file.exists():
            write_features(file, self.compute(model, images.images, preprocess), description)
        return read_features(file)

    def describe(self, images: Split, preprocess: Preprocess, device: torch.device) -> str:
        """Returns a description of everything that decides a split's features, as JSON."""
        description = {
            **self.backbone,
            "size": preprocess.size,
            "pool": preprocess.pool,
            "mean": preprocess.mean,
            "std": preprocess.std,
            "device": device.type,
            "dtype": DTYPES[precision_name(self.precision, device.type)],
            "matmul_backend": matmul_backend(),
            "versions": {name: versions()[name] for name in COUNTED_VERSIONS},
            "images": images.digest,
        }
        return json.dumps(description, sort_keys=True)

    @torch.inference_mode()
    def compute(
        self, model: nn.Module, images: np.ndarray, preprocess: Preprocess, *, title: str | None = "features"
    ) -> Float[Tensor, "count dim"]:
        """Returns the head's inputs for images (N, S, S, 3) uint8, float32 on the CPU. A progress bar shows `title`."""
        timm_model: Any = model

        def features(batch: Tensor) -> Tensor:
            return timm_model.forward_head(timm_model.forward_features(batch), pre_logits=True)

        evaluator = Evaluator(normalize=preprocess.normalize, batch_size=self.batch_size, precision=self.precision)
        return torch.cat([batch.float() for batch in evaluator.run(model, features, images, title=title)]).cpu()


def inputs_of(
    model: nn.Module,
    data: TaskData,
    preprocess: Preprocess,
    feature_cache: FeatureCache | None,
    augment: Augmenter | None = None,
) -> Inputs:
    """Returns the model with its images, or, if only the head is trained, the head with features.

    Without a feature cache, or with augmentation, every model is trained on images.
    """
    if feature_cache is not None and augment is None and trains_only_head(model):
        return feature_cache.inputs(model, data, preprocess)
    return Inputs(model=model, load=data.load, normalize=preprocess.normalize, augment=augment)


def write_features(file: Path, features: Float[Tensor, "count dim"], description: str) -> None:
    """Writes features with their description and sha256."""
    metadata = {"of": description, "sha256": hash_array(features.numpy()).hex()}
    with atomic_write(file) as temporary:
        safetensors.torch.save_file({"features": features}, temporary, metadata=metadata)


def read_features(file: Path) -> np.ndarray:
    """Returns features (N, D) float32.

    Raises:
        UserError: if the file cannot be read or its features do not have the recorded sha256.
    """
    try:
        with safetensors.safe_open(file, framework="np") as opened:
            features, metadata = opened.get_tensor("features"), opened.metadata()
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"the features in {file} cannot be read ({error}); delete that file") from error
    if hash_array(features).hex() != metadata["sha256"]:
        raise UserError(f"the features in {file} have changed since they were computed; delete that file")
    return features
