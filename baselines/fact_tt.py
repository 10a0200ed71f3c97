"""FacT-TT: Jie and Deng, "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer", AAAI 2023.

arXiv 2212.03145. The updates of all layers are one tensor train.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.slices import SliceFactors, attach_slices, uniform


class TensorTrain(SliceFactors):
    """U (d, r), a core Sigma_i (r, r) for each slice, and V (d, r), which is zero at the start."""

    def __init__(self, dim: int, num_slices: int, *, rank: int, generator: torch.Generator | None) -> None:
        super().__init__()
        # the bounds are those of the authors' code, except for fc2, whose cores it starts at half of them
        self.input = uniform(dim, rank, bound=dim**-0.5, generator=generator)
        self.core = uniform(num_slices, rank, rank, bound=rank**-0.5, generator=generator)
        self.output = nn.Parameter(torch.zeros(dim, rank))

    def forward(self, first: int, last: int) -> Float[Tensor, "slices rank rank"]:
        return self.core[first:last]


def attach(model: nn.Module, *, rank: int, scale: float, generator: torch.Generator | None) -> None:
    """Updates q, k, v, proj, fc1 and fc2 of every block of a plain ViT from one tensor train.

    The authors drop out a tenth of the activations between the factors, which a weight cannot: this does not.
    """
    factors = partial(TensorTrain, rank=rank, generator=generator)
    attach_slices(model, factors, rank=rank, scale=scale, interleaves=False)
