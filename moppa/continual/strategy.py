"""What a sequence of tasks keeps from one task to the next, and the low-rank updates of a trained model as tensors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moppa.merging.experts import low_rank_updates
from moppa.merging.updates import Delta, LowRank, parts_of
from moppa.peft.inject import ParametrizedLinear
from moppa.peft.low_rank import LowRankDelta, only_delta
from moppa.record.parts import Attached, Parts
from moppa.utils.errors import UserError


class Strategy:
    """One way to learn tasks in sequence. `tensors` is all that it keeps, and `tasks` are those that it has learned.

    If `keeps_earlier`, a new task never changes the update of an earlier one, which need not be evaluated again.
    """

    keeps_earlier = False

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.tasks: list[str] = []

    def resume(self, tensors: Mapping[str, Tensor], tasks: Sequence[str]) -> None:
        """Continues after the given tasks with what was kept then."""
        self.tensors, self.tasks = dict(tensors), list(tasks)

    def attach(self, parts: Parts, device: torch.device) -> Attached:
        """Returns the backbone with the method attached, as the training of the next task starts."""
        return parts.attached(device)

    def learn(self, task: str, model: nn.Module) -> None:
        """Keeps what a model has learned that was trained on a task."""
        self.keep(task, model)
        self.tasks.append(task)

    def keep(self, task: str, model: nn.Module) -> None:
        """Changes `tensors` by a model that was trained on a task; `tasks` are the earlier ones."""
        raise NotImplementedError

    def delta(self, task: str) -> Delta:
        """Returns what is added to the pretrained backbone for a task that was learned."""
        raise NotImplementedError


def updates_of_model(model: nn.Module) -> dict[str, LowRank]:
    """Returns the low-rank updates of a trained model on the CPU.

    Raises:
        UserError: if the method trains something else.
    """
    updates = low_rank_updates(model)
    if not updates:
        raise UserError(
            "a continual sequence adds low-rank updates to weights: choose a method that does, as method=lora"
        )
    return {name: LowRank(update.up.cpu(), update.down.cpu()) for name, update in updates.items()}


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any, LowRankDelta]]:
    """Yields the name of every layer with a low-rank update, the layer and its update."""
    for name, layer in model.named_modules():
        delta = only_delta(layer) if isinstance(layer, ParametrizedLinear) else None
        if delta is not None:
            yield name, layer, delta


def as_tensors(delta: Delta, prefix: str) -> dict[str, Tensor]:
    """Returns a delta as tensors PREFIX/NAME/0 and, if an update is low-rank, PREFIX/NAME/1."""
    return {
        f"{prefix}/{name}/{index}": part.contiguous()
        for name, update in delta.items()
        for index, part in enumerate(parts_of(update))
    }


def as_delta(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, LowRank | Tensor]:
    """Returns the delta that `as_tensors` returned as tensors."""
    names = {name.split("/")[1]: None for name in sorted(tensors) if name.startswith(f"{prefix}/")}
    return {
        name: LowRank(tensors[f"{prefix}/{name}/0"], tensors[f"{prefix}/{name}/1"])
        if f"{prefix}/{name}/1" in tensors
        else tensors[f"{prefix}/{name}/0"]
        for name in names
    }
