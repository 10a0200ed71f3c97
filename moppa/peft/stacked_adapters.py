"""Adapters of some of the matrices that are stacked in a linear layer's weight: SPT-Adapter."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.initialize import initialize
from moppa.peft.targets import TargetLinear


class StackedAdapters(nn.Module):
    """y' = y + Up(GELU(Down(y))), y = W x, for each adapted one of the matrices stacked in W; Up = 0 at the start.

    The adapter of an attention's projection reads x in place of y, as in the authors' code. `dropout` acts on what is
    read, in training.
    """

    def __init__(
        self, inner: nn.Module, target: TargetLinear, *, rank: int, dropout: float, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.inner, self.is_adapted = inner, target.is_adapted
        self.reads_input, self.dropout = target.name == "proj", dropout
        width, num_adapted = target.matrix_shape[0], sum(target.is_adapted)
        self.down = nn.ParameterList(torch.empty(rank, width) for _ in range(num_adapted))
        self.down_bias = nn.ParameterList(torch.zeros(rank) for _ in range(num_adapted))
        self.up = nn.ParameterList(torch.zeros(width, rank) for _ in range(num_adapted))
        self.up_bias = nn.ParameterList(torch.zeros(width) for _ in range(num_adapted))
        initialize(self.down, self.up, "kaiming_uniform", generator)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        adapters = zip(self.down, self.down_bias, self.up, self.up_bias, strict=True)
        outputs = [
            y + self.adapter_output(x if self.reads_input else y, *next(adapters)) if is_adapted else y
            for y, is_adapted in zip(self.inner(x).chunk(len(self.is_adapted), dim=-1), self.is_adapted, strict=True)
        ]
        return torch.cat(outputs, dim=-1)

    def adapter_output(
        self, z: Tensor, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor
    ) -> Float[Tensor, "*batch d_out"]:
        """Returns Up(GELU(Down(z)))."""
        hidden = F.linear(F.dropout(z, self.dropout, self.training), down, down_bias)
        return F.linear(F.gelu(hidden), up, up_bias)
