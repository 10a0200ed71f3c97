"""What enters the linear layers and norms of an expert, summed over its training images."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moppa.merging.training_images import TrainingImages
from moppa.merging.updates import Delta
from moppa.peft.inject import wrap_module

BATCH = 32  # images


class Recorder(nn.Module):
    """A layer that sums what it reads: X^T X of a linear layer, the squares of the normalized channels of a norm."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.sum = layer, torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.LayerNorm):
            rows = F.layer_norm(x, self.layer.normalized_shape, eps=self.layer.eps).flatten(0, -2).float()
            self.sum = self.sum + rows.square().sum(dim=0).cpu()
        else:
            rows = x.flatten(0, -2).float()
            self.sum = self.sum + (rows.T @ rows).cpu()
        return self.layer(x)


@torch.no_grad()
def layer_inputs(delta: Delta, task: int, training: TrainingImages, *, num_images: int, seed: int) -> dict[str, Tensor]:
    """Returns the sums by the name of the layer's weight, of an expert on some training images of its task.

    A linear layer has X^T X (d_in, d_in), a norm the squared norm of every normalized channel (dim,).
    """
    training.set_delta(delta)
    network: Any = copy.deepcopy(training.network).eval()
    names = list(recorded_layers(network, delta))
    for name in names:
        owner, _, attribute = name.rpartition(".")
        wrap_module(network.get_submodule(owner), attribute, Recorder)
    images, _ = training.draw(task, num_images, "inputs", seed=seed)
    for batch in images.split(BATCH):
        network.forward_features(batch)
    recorders: dict[str, Any] = {name: network.get_submodule(name) for name in names}
    return {f"{name}.weight": recorder.sum for name, recorder in recorders.items() if recorder.sum.ndim}


def recorded_layers(network: nn.Module, delta: Delta) -> Iterator[str]:
    """Yields the names of the linear layers and norms whose weight an expert changes."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.LayerNorm) and f"{name}.weight" in delta:
            yield name
