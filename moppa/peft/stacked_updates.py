"""Updates of a linear layer's output that depend on its input, so that they are no update of its weight."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.inject import wrap_module
from moppa.peft.targets import TargetLinear, check_calls_qkv


class StackedUpdates(nn.Module):
    """y' = W x + u(x) for each adapted one of the matrices that are stacked in W, with an update u of its own."""

    def __init__(self, inner: nn.Module, updates: nn.ModuleList, is_adapted: tuple[bool, ...]) -> None:
        super().__init__()
        self.inner, self.updates, self.is_adapted = inner, updates, is_adapted

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        remaining, outputs = iter(self.updates), self.inner(x).chunk(len(self.is_adapted), dim=-1)
        pairs = zip(outputs, self.is_adapted, strict=True)
        return torch.cat([y + next(remaining)(x) if adapted else y for y, adapted in pairs], dim=-1)


def add_updates_to(target: TargetLinear, update: Callable[[], nn.Module], *, method: str) -> None:
    """Adds `update()` to the output of each adapted matrix of a layer.

    Raises:
        UserError: if the layer is never called; the message names the method.
    """
    if target.name == "qkv":
        check_calls_qkv(target.owner, method=method)
    updates = nn.ModuleList(update() for _ in range(sum(target.is_adapted)))
    wrap_module(target.owner, target.name, partial(StackedUpdates, updates=updates, is_adapted=target.is_adapted))
