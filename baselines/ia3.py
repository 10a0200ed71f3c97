"""(IA)^3: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning".

NeurIPS 2022, arXiv 2205.05638; the authors' code: github.com/r-three/t-few.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.inject import ParametrizedLinear, parametrize_weights
from moppa.peft.low_rank import stacked_gains
from moppa.peft.targets import check_calls_qkv, target_linears


class ScaledOutputs(nn.Module):
    """l * y for the outputs of some of the matrices stacked in W, by W' = l * W and c' = l * c; l = 1 at the start."""

    def __init__(self, is_adapted: tuple[bool, ...], width: int) -> None:
        super().__init__()
        self.is_adapted = is_adapted
        self.scales = nn.ParameterList(torch.ones(width) for _ in range(sum(is_adapted)))

    @property
    def scale(self) -> Float[Tensor, " d_out"]:
        """One number per output of the layer, 1 if its matrix is not adapted."""
        return stacked_gains(self.is_adapted, list(self.scales), otherwise=1)

    def forward(self, tensor: Float[Tensor, "d_out *rest"]) -> Float[Tensor, "d_out *rest"]:
        return self.scale.view(-1, *[1] * (tensor.ndim - 1)) * tensor

    def layer_output(self, layer: ParametrizedLinear, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Returns l * (W x + c)."""
        y = layer.pretrained_output(x)
        return (self.scale * y).to(y.dtype)


class ScaledInputs(nn.Module):
    """W (l * x) + c, by W' = W diag(l); l = 1 at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        return weight * self.scale

    def layer_output(self, layer: ParametrizedLinear, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Returns W (l * x) + c."""
        return F.linear((self.scale * x).to(x.dtype), layer.pretrained("weight"), layer.pretrained("bias"))


def attach(model: nn.Module) -> None:
    """Scales the keys, the values and the hidden units of the MLP (the inputs of fc2) in every block of a transformer.

    Keys and values are scaled with their biases, as the activations of the paper, whose T5 has none.
    """
    for target in target_linears(model, ("k", "v"), method="(IA)^3"):
        if len(target.is_adapted) > 1:
            check_calls_qkv(target.owner, method="(IA)^3")
        layer, scaled = target.layer, ScaledOutputs(target.is_adapted, target.matrix_shape[0])
        parametrize_weights(layer, weight=scaled, **({} if layer.bias is None else {"bias": scaled}))
    for target in target_linears(model, ("fc2",), method="(IA)^3"):
        parametrize_weights(target.layer, weight=ScaledInputs(target.layer.in_features))
