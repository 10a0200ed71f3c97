"""FacT-TK: Jie and Deng, "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer", AAAI 2023.

arXiv 2212.03145. The updates of all layers are one Tucker decomposition.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.slices import SliceFactors, attach_slices, uniform
from moppa.utils import validate


class Tucker(SliceFactors):
    """U (d, r), V (d, r), and Sigma_i = sum_t P_it C_t from one core C (r, r, r); V is zero at the start."""

    def __init__(self, dim: int, num_slices: int, *, rank: int, generator: torch.Generator | None) -> None:
        super().__init__()
        # the bounds are those of the authors' code
        self.input = uniform(dim, rank, bound=dim**-0.5, generator=generator)
        self.core = uniform(rank, rank, rank, bound=3**0.5 / rank, generator=generator)
        self.mix = uniform(num_slices, rank, bound=(6 / (num_slices + rank)) ** 0.5, generator=generator)
        self.output = nn.Parameter(torch.zeros(dim, rank))

    def forward(self, first: int, last: int) -> Float[Tensor, "slices rank rank"]:
        return torch.einsum("it,tab->iab", self.mix[first:last], self.core)


def attach(model: nn.Module, *, rank: int, scale: float, mlp_cores: str, generator: torch.Generator | None) -> None:
    """Updates q, k, v, proj, fc1 and fc2 of every block of a plain ViT from one Tucker decomposition.

    `mlp_cores` says how the cores of fc1 and fc2 are read: interleaved as in the authors' code, or sliced as in the
    paper's tensor. The authors drop out a tenth of the activations between the factors, which a weight cannot.
    """
    validate.one_of("mlp_cores", mlp_cores, ("interleaved", "sliced"))
    factors = partial(Tucker, rank=rank, generator=generator)
    attach_slices(model, factors, rank=rank, scale=scale, interleaves=mlp_cores == "interleaved")
