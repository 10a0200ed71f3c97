"""DoRA: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024, arXiv 2402.09353."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.inject import parametrize_weights
from moppa.peft.targets import TargetLinear, target_linears
from moppa.utils import validate

from .lora import LoRADelta


class DoRADelta(LoRADelta):
    """W' = m (W + (alpha / r) B A) / ||W + (alpha / r) B A||, with m = ||W|| and B = 0 at the start.

    There is one norm per output, over the inputs, as in the authors' code and in HF peft. The gradient
    treats the norm in the denominator as a constant. m is learned as its distance from ||W||, so that m / ||W|| is
    exactly 1 at the start on every device. Weight decay then pulls m to ||W|| and not to 0; the authors train without.
    """

    def __init__(self, target: TargetLinear, *, rank: int, alpha: float, generator: torch.Generator | None) -> None:
        super().__init__(
            target, rank=rank, alpha=alpha, share_down=False, init="kaiming_uniform", dropout=0.0, generator=generator
        )
        self.magnitude = nn.ParameterList(torch.zeros(target.matrix_shape[0], 1) for _ in range(sum(self.is_adapted)))

    def gains(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out 1"]:
        """Returns m / ||W + (alpha / r) B A|| of each output, and 1 if its matrix is not adapted."""
        learned = zip(self.magnitude, self.up, self.down, strict=True)
        matrices = zip(weight.chunk(len(self.is_adapted)), self.is_adapted, strict=True)
        return torch.cat(
            [
                self.gain(matrix, *next(learned)) if adapted else torch.ones_like(matrix[:, :1])
                for matrix, adapted in matrices
            ]
        )

    def gain(self, weight: Tensor, change: Tensor, up: Tensor, down: Tensor) -> Float[Tensor, "d_out 1"]:
        """Returns m / ||W + (alpha / r) B A|| of one matrix, with m = ||W|| + change."""
        with torch.no_grad():
            magnitude, norm = row_norms(weight), row_norms(torch.addmm(weight, up, down, alpha=self.scale))
        return (magnitude + change) / norm


def row_norms(weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out 1"]:
    """Returns the norm of the weights that lead to each output."""
    return torch.linalg.vector_norm(weight, dim=1, keepdim=True)


def attach(
    model: nn.Module, *, rank: int, alpha: float, targets: Sequence[str], generator: torch.Generator | None
) -> None:
    """Splits each target (q, k, v, proj, fc1, fc2) of every block into a magnitude and a direction of rank `rank`."""
    validate.number("alpha", alpha, minimum=0, exclusive_minimum=True)
    for target in target_linears(model, targets, method="DoRA"):
        parametrize_weights(target.layer, weight=DoRADelta(target, rank=rank, alpha=alpha, generator=generator))
