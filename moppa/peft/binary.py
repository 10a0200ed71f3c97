"""Matrices whose weights are stored as one bit each, with their mean and standard deviation.

Jie, Wang and Deng, "Revisiting the Parameter Efficiency of Adapters from the Perspective of Precision Redundancy",
ICCV 2023, arXiv 2307.16867.
"""

import math
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor, nn

# The two levels with the least absolute error on a standard normal weight: the medians of its halves. In float32, as in
# the authors' code.
LEVEL = torch.tensor(NormalDist().inv_cdf(0.75), dtype=torch.float32).item()
EPSILON = 1e-5  # added to the standard deviation, as in the authors' code


def binarize(latent: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Returns mean + std q, q = +-LEVEL by the sign of the standardized weight; the gradient ignores the rounding.

    Equal weights have no sign and stay as they are: zero latents give the zero matrix, and are binary after one step.
    """
    std, mean = torch.std_mean(latent)
    standardized = (latent - mean) / (std + EPSILON)
    rounded = standardized + (LEVEL * standardized.sign() - standardized).detach()
    return torch.where(std > 0, mean + std * rounded, latent)


def latent_factors(
    d_in: int, width: int, d_out: int, generator: torch.Generator | None
) -> tuple[nn.Parameter, nn.Parameter]:
    """Returns the latent weights Down (width, d_in), drawn, and Up (d_out, width), zero.

    With zeros training starts from the frozen model; the authors draw Up within 0.002 of zero.
    """
    down = nn.Parameter(torch.empty(width, d_in))
    nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)  # as in the authors' code
    return down, nn.Parameter(torch.zeros(d_out, width))
