"""BOFT: Liu et al., "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization", ICLR 2024.

arXiv 2311.06243; the authors' code is part of HF peft.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.inject import ParametrizedLinear, parametrize_weights
from moppa.peft.low_rank import stacked_gains
from moppa.peft.rotation import RotationDelta
from moppa.peft.targets import TargetLinear, target_linears


class ScaledRotationDelta(RotationDelta):
    """W' = (1 + g) * W R^T by rows, with one g per output, 0 at the start.

    The authors' code has 1 + g as a parameter, which weight decay pulls to 0.
    """

    def __init__(self, target: TargetLinear, *, block_size: int, num_factors: int) -> None:
        super().__init__(target, block_size=block_size, num_factors=num_factors)
        self.gains = nn.ParameterList(torch.zeros(target.matrix_shape[0]) for _ in self.skew)

    @property
    def gain(self) -> Float[Tensor, " d_out"]:
        """g of all outputs of the layer, 0 for the matrices that are not adapted."""
        return stacked_gains(self.is_adapted, list(self.gains), otherwise=0)

    def forward(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        return (1 + self.gain)[:, None] * super().forward(weight)

    def layer_output(self, layer: ParametrizedLinear, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Returns (1 + g) * W R^T x + c, computed so that it is exactly the frozen layer's at the start."""
        y, bias = super().layer_output(layer, x), layer.pretrained("bias")
        return torch.addcmul(y, self.gain, y if bias is None else y - bias).to(y.dtype)


def attach(model: nn.Module, *, block_size: int, num_factors: int, targets: Sequence[str]) -> None:
    """Rotates what each target (q, k, v, proj, fc1, fc2) of every block reads, and scales its outputs.

    The rotation is a product of `num_factors` butterfly factors with blocks of `block_size`.
    """
    for target in target_linears(model, targets, method="BOFT"):
        delta = ScaledRotationDelta(target, block_size=block_size, num_factors=num_factors)
        parametrize_weights(target.layer, weight=delta)
