"""Where a training can be resumed from: all that decides the bytes of its outcome, written whole or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moppa.peft.collect import trainable_parameters
from moppa.utils import validate
from moppa.utils.atomic import atomic_write


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a cell's training can be resumed from, every `epochs` epochs, by the same `code` alone."""

    path: Path
    epochs: int
    code: Mapping[str, Any]

    def __post_init__(self) -> None:
        validate.integer("run.checkpoint_epochs", self.epochs, minimum=1)

    def write(self, state: Mapping[str, Any]) -> None:
        """Replaces the checkpoint, whole or not at all."""
        with atomic_write(self.path) as temporary:
            torch.save({"code": dict(self.code), **state}, temporary)

    def read(self) -> dict[str, Any] | None:
        """The state to go on from; None where there is none, or where it is damaged or of other code (said aloud)."""
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, weights_only=True)
        except Exception as error:  # any damage means the same: begin again
            print(f"the checkpoint {self.path} cannot be read ({type(error).__name__}): training begins anew")
            return None
        if state["code"] != dict(self.code):
            print(f"the checkpoint {self.path} was written by other code or versions: training begins anew")
            return None
        print(f"resuming at step {state['step']} from {self.path}")
        return state

    def remove(self) -> None:
        """Forgets the checkpoint, once the record stands."""
        self.path.unlink(missing_ok=True)


def is_from(path: Path, code: Mapping[str, Any]) -> bool:
    """Whether a checkpoint can be gone on from by this code."""
    try:
        return torch.load(path, weights_only=True, mmap=True)["code"] == dict(code)
    except Exception:  # any damage means the same: it cannot
        return False


def restore(state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, losses: Tensor) -> None:
    """Puts a checkpoint's state back: weights, buffers, moments, losses so far and torch's generators."""
    with torch.no_grad():
        for name, parameter in trainable_parameters(model).items():
            parameter.copy_(state["trainable"][name])
        for name, buffer in model.named_buffers():
            buffer.copy_(state["buffers"][name])
    optimizer.load_state_dict(state["optimizer"])
    losses[: state["step"]] = state["losses"].to(losses.device)
    torch.set_rng_state(state["generators"]["cpu"])
    if losses.device.type == "cuda":
        torch.cuda.set_rng_state(state["generators"]["cuda"], losses.device)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators, from which dropout and drop path draw."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states
