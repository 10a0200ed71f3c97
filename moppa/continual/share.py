"""Share as a continual strategy: one shared subspace for the low-rank factors of all tasks, coefficients for each.

Kaushik et al., "Shared LoRA Subspaces for almost Strict Continual Learning", arXiv 2602.06043. The first task trains
LoRA. Every later one trains coefficients in the principal subspace of the earlier factors, and temporary directions.
Then the subspace is computed again from the factors of all tasks, and these are projected on it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from moppa.continual.strategy import Strategy, adapted_layers
from moppa.merging.updates import Delta, LowRank
from moppa.peft.low_rank import stacked
from moppa.peft.subspace import lora_columns, principal_directions
from moppa.record.parts import Attached, Parts
from moppa.utils.seeds import generator_for


class Share(Strategy):
    """Keeps the factors of all tasks in the shared subspace, as TASK/LAYER...down.0 of `method=lora`.

    `method` is the config of method=share, whose `attach` is called with the names of the tasks as its records.
    """

    def __init__(self, *, method: Mapping[str, Any]) -> None:
        super().__init__()
        self.method: Callable[..., None] = method["attach"]
        self.settings: Mapping[str, Any] = self.method.keywords  # type: ignore[attr-defined]  # a partial, from YAML

    def attach(self, parts: Parts, device: torch.device) -> Attached:
        """Returns the backbone with LoRA for the first task, later with coefficients in the shared subspace."""
        if self.tasks:
            method = partial(self.method, records=list(self.tasks))
            parts = replace(parts, method=method, finished=lambda names: {name: self.factors(name) for name in names})
        return parts.attached(device)

    def factors(self, task: str) -> dict[str, Tensor]:
        """Returns the factors of a task by the names of their tensors in LoRA."""
        return {
            name.removeprefix(f"{task}/"): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(f"{task}/")
        }

    @torch.no_grad()
    def keep(self, task: str, model: nn.Module) -> None:
        """Adds the factors of the task and, from the second task on, projects all factors on their new subspace."""
        for layer, _, delta in adapted_layers(model):
            self.tensors[f"layout/{layer}"] = torch.tensor(delta.is_adapted)
            for side, factors in zip(("down", "up"), delta.factors(), strict=True):
                for index, factor in enumerate(factors):
                    name = f"{task}/{layer}.parametrizations.weight.0.{side}.{index}"
                    self.tensors[name] = factor.detach().cpu().clone()
        if self.tasks:
            self.project([*self.tasks, task])

    def project(self, tasks: list[str]) -> None:
        """Projects the factors of all tasks on the principal directions of these factors."""
        of_tasks = {task: self.factors(task) for task in tasks}
        for name, example in of_tasks[tasks[0]].items():
            is_down = ".down." in name
            rank, dim = example.shape if is_down else reversed(example.shape)
            columns = lora_columns(of_tasks, name, rank, dim)
            drawn = generator_for(self.settings["basis_seed"], name)
            basis = principal_directions(columns, self.settings["components"], generator=drawn)
            for task, factors in of_tasks.items():
                inside = basis @ (basis.T @ (factors[name].T if is_down else factors[name]))
                self.tensors[f"{task}/{name}"] = (inside.T if is_down else inside).contiguous()

    def delta(self, task: str) -> Delta:
        """Returns the update of the task."""
        factors = self.factors(task)
        updates = {}
        for name, layout in self.tensors.items():
            if name.startswith("layout/"):
                layer = name.removeprefix("layout/")
                downs, ups = (
                    [factors[f"{layer}.parametrizations.weight.0.{side}.{index}"] for index in range(int(layout.sum()))]
                    for side in ("down", "up")
                )
                updates[f"{layer}.weight"] = LowRank(stacked(layout.tolist(), ups), torch.cat(downs))
        return updates
