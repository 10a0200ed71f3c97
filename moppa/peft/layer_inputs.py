"""What enters the layers of a network, summed over images."""

import copy
from collections.abc import Collection, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moppa.peft.inject import wrap_module


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
def summed_inputs(network: nn.Module, names: Collection[str], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Returns the sums of the named layers over batches of images, by name; layers that are never called are left out.

    A linear layer has X^T X (d_in, d_in), a norm the squared norm of every normalized channel (dim,).
    """
    recorded: Any = copy.deepcopy(network).eval()
    for name in names:
        owner, _, attribute = name.rpartition(".")
        wrap_module(recorded.get_submodule(owner), attribute, Recorder)
    for batch in batches:
        recorded.forward_features(batch)
    recorders: dict[str, Any] = {name: recorded.get_submodule(name) for name in names}
    return {name: recorder.sum for name, recorder in recorders.items() if recorder.sum.ndim}
