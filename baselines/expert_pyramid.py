"""Expert pyramid tuning: updates summed from experts that expand one low-rank matrix by kernels of several sizes.

Zhang et al., "Expert Pyramid Tuning: Efficient Parameter Fine-Tuning for Expertise-Driven Task Allocation", 2026,
arXiv 2603.12577. Our reading of the abstract, for one task.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from moppa.peft.dense import DenseDelta
from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import add_updates
from moppa.peft.targets import target_linears
from moppa.utils import validate
from moppa.utils.errors import SettingError


class Pyramid(nn.Module):
    """scale sum_i g_i up_i(Z): the shared subspace Z = B A, experts i = 1, 2, ..., and a router g = softmax(logits).

    up_i is a transposed convolution with one kernel K_i (s_i, s_i) and the stride s_i: each entry of Z becomes a block
    of the kernel's size. It reads as many rows and columns of Z as the weight has blocks. K_i = 0 at the start.
    """

    def __init__(
        self, d_out: int, d_in: int, *, rank: int, sizes: Sequence[int], scale: float, generator: Generator | None
    ) -> None:
        super().__init__()
        self.d_out, self.d_in, self.scale = d_out, d_in, scale
        num_rows, num_columns = (-(-dim // min(sizes)) for dim in (d_out, d_in))
        self.down = nn.Parameter(torch.empty(rank, num_columns).normal_(std=num_columns**-0.5, generator=generator))
        self.up = nn.Parameter(torch.empty(num_rows, rank).normal_(std=rank**-0.5, generator=generator))
        self.kernels = nn.ParameterList(torch.zeros(size, size) for size in sizes)
        self.logits = nn.Parameter(torch.zeros(len(sizes)))

    def forward(self) -> Float[Tensor, "d_out d_in"]:
        subspace, gates = self.up @ self.down, self.scale * self.logits.softmax(dim=0)
        update = subspace.new_zeros(self.d_out, self.d_in)
        for gate, kernel in zip(gates, self.kernels, strict=True):
            num_rows, num_columns = (-(-dim // len(kernel)) for dim in update.shape)
            expanded = torch.kron(subspace[:num_rows, :num_columns], gate * kernel)
            update = update + expanded[: self.d_out, : self.d_in]
        return update


class PyramidDelta(DenseDelta):
    """W' = W + the update of a pyramid, for each adapted one of the matrices stacked in W."""

    def __init__(self, is_adapted: tuple[bool, ...], pyramids: Iterable[Pyramid]) -> None:
        super().__init__()
        self.is_adapted, self.pyramids = is_adapted, nn.ModuleList(pyramids)

    def update(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        return add_updates(torch.zeros_like(weight), self.is_adapted, [pyramid() for pyramid in self.pyramids])


def attach(
    model: nn.Module,
    *,
    rank: int,
    sizes: Sequence[int],
    scale: float,
    targets: Sequence[str],
    generator: Generator | None,
) -> None:
    """Adds a pyramid to each target (q, k, v, proj, fc1, fc2) of every block, with an expert for each kernel size."""
    validate.integer("rank", rank, minimum=1)
    validate.number("scale", scale, minimum=0, exclusive_minimum=True)
    if not [validate.integer("sizes", size, minimum=1) for size in sizes]:
        raise SettingError("sizes", "=[]: give the kernel size of at least one expert")
    pyramid = partial(Pyramid, rank=rank, sizes=sizes, scale=scale, generator=generator)
    for target in target_linears(model, targets, method="Expert pyramid tuning"):
        pyramids = [pyramid(*target.matrix_shape) for _ in range(sum(target.is_adapted))]
        parametrize_weights(target.layer, weight=PyramidDelta(target.is_adapted, pyramids))
