"""VFPT: Zeng et al., "Visual Fourier Prompt Tuning", NeurIPS 2024, arXiv 2411.01327."""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from moppa.peft.prompts import attach_prompts
from moppa.utils import validate

Prompts = Float[Tensor, "batch num_prompts dim"]


class FourierTransform(nn.Module):
    """Re F(P): the real part of the Fourier transform of the first prompts over both axes; the others stay."""

    def __init__(self, num_transformed: int) -> None:
        super().__init__()
        self.num_transformed = num_transformed

    def forward(self, prompts: Prompts) -> Prompts:
        if not self.num_transformed:
            return prompts
        first, others = prompts.tensor_split((self.num_transformed,), dim=1)
        dtype = torch.promote_types(prompts.dtype, torch.float32)  # there is no transform of bfloat16
        return torch.cat([torch.fft.fft2(first.to(dtype)).real.to(prompts.dtype), others], dim=1)


def attach(
    model: nn.Module,
    *,
    num_prompts: int,
    deep: bool,
    fraction: float,
    dropout: float,
    pool_prompts: bool,
    generator: Generator | None,
) -> None:
    """Adds the prompts of VPT, of which the first floor(num_prompts * fraction) pass through a Fourier transform.

    It acts over the hidden axis and over the prompts that it transforms, after the dropout, as in the authors' code.
    For the other settings see `baselines.vpt`.
    """
    validate.integer("num_prompts", num_prompts, minimum=1)
    validate.number("fraction", fraction, minimum=0, maximum=1)
    attach_prompts(
        model,
        num_prompts=num_prompts,
        deep=deep,
        dropout=dropout,
        pool_prompts=pool_prompts,
        transform=FourierTransform(math.floor(num_prompts * fraction)),
        generator=generator,
        method="VFPT",
    )
