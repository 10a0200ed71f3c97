"""The training images of the merged tasks, for the algorithms that read some: never a validation or a test image."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from moppa.data.split import Split
from moppa.merging.merged_model import MergedModel
from moppa.merging.updates import Update
from moppa.utils.device import forward_context
from moppa.utils.gpu import precision_name
from moppa.utils.seeds import generator_for

if TYPE_CHECKING:
    from moppa.merging.stage import Stage


class TrainingImages:
    """The images that the experts of a stage were trained on, and the model that reads them."""

    def __init__(self, stage: "Stage", model: MergedModel) -> None:
        self.stage, self.model = stage, model
        self.run = stage.parts.run
        self.splits: dict[int, Split] = {}  # by task: each is read once

    @property
    def num_tasks(self) -> int:
        """The number of tasks."""
        return len(self.stage.tasks)

    @property
    def network(self) -> nn.Module:
        """The backbone with the tensors of `set_delta`."""
        return self.model.model

    @property
    def pretrained(self) -> Mapping[str, Tensor]:
        """The pretrained tensors by name."""
        return self.model.pretrained

    def set_delta(self, delta: Mapping[str, Update]) -> None:
        """Sets the tensors of the network to the pretrained ones plus a delta."""
        self.model.set_delta(delta)

    def draw(self, task: int, count: int, *names: str | int, seed: int) -> tuple[Tensor, Int[Tensor, " count"]]:
        """Returns random images (count, 3, S, S) of a task, normalized, and their labels. The names name the use."""
        expert = self.stage.tasks[task]
        if task not in self.splits:
            split = expert.data.load(expert.data.train_split)
            file = expert.expert.delta.folder / "images.npy"
            self.splits[task] = replace(split, images=memory_mapped(split.images, file))
        split = self.splits[task]
        order = torch.randperm(len(split.labels), generator=generator_for(seed, "images", expert.name, *names))
        rows = order[:count].numpy()
        images = torch.from_numpy(np.array(split.images[rows])).to(self.device)
        return self.model.preprocess.normalize(images), torch.from_numpy(split.labels[rows]).to(self.device)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    def logits(self, images: Float[Tensor, "batch channels height width"], task: int) -> Float[Tensor, "batch classes"]:
        """Returns the logits of a task, with the head of its expert."""
        network: Any = self.network
        with forward_context(self.device, precision_name(self.run.precision, self.device.type)):
            features = network.forward_head(network.forward_features(images), pre_logits=True)
        head = self.stage.tasks[task].expert.head
        return features.float() @ head["weight"].to(self.device).T + head["bias"].to(self.device)


def memory_mapped(images: np.ndarray, file: Path) -> np.ndarray:
    """Returns images that are mapped from a file, so that those of many tasks need no memory."""
    if isinstance(images, np.memmap):
        return images
    if not file.exists():
        np.save(file, images)
    return np.load(file, mmap_mode="r")
