"""Sequential fine-tuning: every task continues the training of one and the same update. The reference of forgetting."""

import torch
from torch import nn

from moppa.continual.strategy import Strategy, as_delta, as_tensors, updates_of_model
from moppa.merging.updates import Delta
from moppa.peft.collect import head_parameter_ids, trained_tensors
from moppa.record.parts import Attached, Parts


class Sequential(Strategy):
    """Keeps the trained tensors of the method and goes on from there."""

    @torch.no_grad()
    def attach(self, parts: Parts, device: torch.device) -> Attached:
        """Returns the backbone with the update as the last task left it."""
        attached = parts.attached(device)
        for name, tensor in trained_tensors(attached.model).items():
            if f"method/{name}" in self.tensors:
                tensor.copy_(self.tensors[f"method/{name}"])
        return attached

    def keep(self, task: str, model: nn.Module) -> None:  # noqa: ARG002 - one update for all tasks
        """Keeps the update."""
        head = head_parameter_ids(model)
        self.tensors = as_tensors(updates_of_model(model), "delta") | {
            f"method/{name}": tensor.detach().cpu().clone()
            for name, tensor in trained_tensors(model).items()
            if id(tensor) not in head
        }

    def delta(self, task: str) -> Delta:  # noqa: ARG002
        """Returns the update of all tasks."""
        return as_delta(self.tensors, "delta")


class Independent(Strategy):
    """Keeps an update for each task, trained from the pretrained backbone: nothing is shared, nothing is forgotten."""

    keeps_earlier = True

    def keep(self, task: str, model: nn.Module) -> None:
        """Keeps the update of the task beside the others."""
        self.tensors |= as_tensors(updates_of_model(model), task)

    def delta(self, task: str) -> Delta:
        """Returns the update of the task."""
        return as_delta(self.tensors, task)
