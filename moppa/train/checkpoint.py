"""Checkpoints of a training: everything that decides the bytes of its outcome, written as a whole or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moppa.utils import validate
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The checkpoint file of one cell, written every `epochs` epochs. Only the same `code` resumes from it."""

    path: Path
    epochs: int
    code: Mapping[str, Any]

    def __post_init__(self) -> None:
        validate.integer("run.checkpoint_epochs", self.epochs, minimum=1)

    def write(self, state: Mapping[str, Any]) -> None:
        """Replaces the checkpoint."""
        with atomic_write(self.path) as temporary, temporary.open("wb") as file:
            torch.save({"code": dict(self.code), **state}, file)

    def read(self, device: torch.device) -> dict[str, Any] | None:
        """Returns the saved state, or None if there is none, or if it is damaged or from other code (printed).

        Raises:
            UserError: if it is from another kind of device, whose random numbers and rounding are different.
        """
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, weights_only=True, map_location="cpu")
        except Exception as error:  # any damage means the same: train from the start
            print(f"the checkpoint {self.path} cannot be read ({type(error).__name__}): training starts over")
            return None
        if state["code"] != dict(self.code):
            print(f"the checkpoint {self.path} is from other code or versions: training starts over")
            return None
        begun_on = state.get("device", device.type)
        if begun_on != device.type:
            raise UserError(
                f"the checkpoint {self.path} is from {begun_on}, and {device.type} would continue with other random "
                f"numbers: use run.device={begun_on}, or delete it to start over"
            )
        print(f"resuming at step {state['step']} from {self.path}")
        return state

    def remove(self) -> None:
        """Deletes the checkpoint once the record is written."""
        self.path.unlink(missing_ok=True)


def is_from(path: Path, code: Mapping[str, Any]) -> bool:
    """Returns whether a checkpoint was written by this code, so that a training can resume from it."""
    try:
        return torch.load(path, weights_only=True, mmap=True)["code"] == dict(code)
    except Exception:  # any damage means the same: it cannot
        return False


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Returns the states of torch's default generators, from which dropout and drop path draw."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restores the states that `generator_states` returned."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
