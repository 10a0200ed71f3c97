"""Training steps by `run.step`: eager, with compiled blocks, or recorded once as a CUDA graph and then replayed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moppa.train.compiled_blocks import compiled_blocks
from moppa.train.graph import GraphRecorder, undone
from moppa.utils import validate
from moppa.utils.device import forward_context
from moppa.utils.errors import SettingError

STEPS = ("auto", "eager", "captured", "compiled")
Forward = Callable[[Tensor], Tensor]
Compute = Callable[[Tensor, Tensor], Tensor]  # (indices of the images, progress) -> loss
Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


def train_step(
    forward: Forward,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    penalty: Callable[[], Tensor | float],
    after_step: Callable[[], None],
    *,
    precision: str,
    label_smoothing: float = 0.0,
    clip_norm: float | None = None,
) -> Tensor:
    """Takes one step on the cross-entropy plus `penalty()`, then calls `after_step`; returns the loss on the device."""
    with forward_context(images.device, precision):
        loss = F.cross_entropy(forward(images), labels, label_smoothing=label_smoothing) + penalty()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip_norm is not None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()
    after_step()
    return loss.detach()


def step_mode(name: str, device: torch.device) -> str:
    """Returns eager, captured or compiled for `run.step`; auto is captured on a GPU, else eager.

    Raises:
        SettingError: if there is no such mode, or it needs a GPU.
    """
    validate.one_of("run.step", name, STEPS)
    if name == "captured" and device.type != "cuda":
        raise SettingError("run.step", "='captured' needs a CUDA graph and so a GPU; use run.step=eager or auto")
    return ("captured" if device.type == "cuda" else "eager") if name == "auto" else name


@contextmanager
def forward_of(model: nn.Module, mode: str, *, batch_size: int) -> Iterator[Forward]:
    """Yields the model's forward pass; if the mode is compiled, blocks are compiled for batches of this size."""
    if mode == "compiled":
        with compiled_blocks(model, batch_size=batch_size) as forward:
            yield forward
    else:
        yield model


def recorder_for(mode: str, device: torch.device) -> Record | None:
    """Returns what records a step as a CUDA graph, or None if the mode or the device has none."""
    return GraphRecorder(device) if mode != "eager" and device.type == "cuda" else None


class StepRunner:
    """Takes the steps of a training: `compute(indices, progress)`, or a replay of its recording.

    What differs from step to step is in tensors that stay where they are, so that a recording can read it: the indices
    of the images, the progress, and on a GPU the learning rate. There is one recording for each batch size. Recording
    takes steps on its own; their effect is undone.

    Args:
        compute: takes one step and returns its loss.
        model: whose trained tensors and buffers a step changes.
        optimizer: the optimizer of the step.
        device: of the model.
        record: turns a function without arguments into one that replays it; None takes every step by `compute`.
        falls_back: whether a step that cannot be recorded is taken by `compute`, after a warning.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        record: Record | None,
        falls_back: bool,
    ) -> None:
        self.compute, self.model, self.optimizer, self.device = compute, model, optimizer, device
        self.record, self.falls_back = record, falls_back
        self.progress = torch.zeros((), device=device)
        self.recordings: dict[int, tuple[Tensor, Callable[[], Tensor]]] = {}

    def __call__(self, batch: Tensor, *, lr: float, progress: float) -> Tensor:
        """Takes one step on the images with these indices and returns its loss; `progress` runs from 0 to 1."""
        set_lr(self.optimizer, lr)
        self.progress.fill_(progress)
        if self.record is not None and len(batch) not in self.recordings:
            self.make_recording(len(batch))
        if self.record is None:
            return self.compute(batch, self.progress)
        indices, replay = self.recordings[len(batch)]
        indices.copy_(batch)
        return replay()

    def make_recording(self, batch_size: int) -> None:
        """Records the step for a batch size, or gives up recording if that fails and `falls_back`."""
        assert self.record is not None
        indices = torch.zeros(batch_size, dtype=torch.long, device=self.device)
        try:
            with undone(self.model, self.optimizer, self.device):
                replay = self.record(partial(self.compute, indices, self.progress))
        except RuntimeError as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            if not self.falls_back:
                raise SettingError(
                    "run.step", f": this step cannot be recorded as a CUDA graph ({reason}); use run.step=eager"
                ) from error
            print(f"run.step=auto takes eager steps: no CUDA graph could be recorded ({reason})", file=sys.stderr)
            self.record = None
        else:
            self.recordings[batch_size] = indices, replay


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every parameter group, in place if it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
