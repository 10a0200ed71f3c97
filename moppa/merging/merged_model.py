"""The pretrained backbone, to whose tensors a merged delta is added, and the features that it computes."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from moppa.backbone.efficient_blocks import skip_unused
from moppa.backbone.precision import to_precision
from moppa.backbone.preprocess import Preprocess
from moppa.data.split import Split
from moppa.merging.experts import head_name
from moppa.merging.updates import Update, dense
from moppa.record.parts import Parts
from moppa.train.feature_cache import FeatureCache
from moppa.utils.gpu import precision_name


class MergedModel:
    """A backbone whose tensors are the pretrained ones plus a delta, on a device.

    `pretrained` holds the tensors of the backbone by name, without a head, on the CPU.
    """

    def __init__(self, parts: Parts, device: torch.device) -> None:
        frozen = parts.frozen(torch.device("cpu"))
        model: Any = frozen.model
        head = head_name(model)
        self.pretrained = {
            name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith(f"{head}.")
        }
        self.preprocess: Preprocess = frozen.preprocess
        self.model: nn.Module = skip_unused(model.to(device).eval(), parts.run.skip_unused)
        to_precision(self.model, precision_name(parts.run.precision, device.type))
        self.changed: set[str] = set()
        self.compute = FeatureCache(
            folder=None, backbone={}, batch_size=parts.run.eval_batch, precision=parts.run.precision
        ).compute

    @torch.no_grad()
    def set_delta(self, delta: Mapping[str, Update], scale: float = 1.0) -> None:
        """Sets the tensors to the pretrained ones plus `scale` times a delta."""
        tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        for name in self.changed - set(delta):
            tensors[name].copy_(self.pretrained[name])
        for name in delta:
            tensors[name].copy_(self.pretrained[name] + scale * dense(delta[name]).cpu())
        self.changed = set(delta)

    def features(self, split: Split) -> Float[Tensor, "count dim"]:
        """Returns the head's inputs for the images of a split, on the CPU."""
        features = self.compute(self.model, split.images, self.preprocess, title=None)
        return features.clone()  # outside of inference mode


def predict(features: Float[Tensor, "count dim"], head: Mapping[str, Tensor]) -> Int[Tensor, " count"]:
    """Returns the classes that a linear head gives to features."""
    return (features @ head["weight"].to(features).T + head["bias"].to(features)).argmax(dim=1)


def count_correct(
    features: Float[Tensor, "count dim"], head: Mapping[str, Tensor], labels: Int[Tensor, " count"]
) -> int:
    """Returns the number of features to which a linear head gives their class."""
    return int((predict(features, head) == labels).sum())
