"""One step of the optimizer, and torch.compile for its forward."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moppa.utils import validate
from moppa.utils.device import forward_context

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
RECOMPILE_LIMIT = 4096  # beyond its own small limit torch silently stops compiling


def compile_model(model: nn.Module, mode: str | None) -> Callable[[Tensor], Tensor]:
    """Returns the model's forward, compiled by torch.compile in the given mode; None returns the model itself.

    Each batch shape is compiled once. Cells of one process that share backbone and method share the compiled code;
    other processes reuse its kernels from torch's cache on disk.

    Raises:
        SettingError: if torch has no such mode.
    """
    if mode is None:
        return model
    validate.one_of("run.compile", mode, COMPILE_MODES)
    for limit in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(torch._dynamo.config, limit, RECOMPILE_LIMIT)
    return torch.compile(model, mode=mode, dynamic=False)


def train_step(
    forward: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    penalty: Callable[[], Tensor | float],
) -> Tensor:
    """Takes one step on the cross-entropy plus `penalty()` and returns the loss, still on the device."""
    with forward_context(images.device):
        loss = F.cross_entropy(forward(images), labels) + penalty()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()
