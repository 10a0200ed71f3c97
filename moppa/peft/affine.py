"""Affine maps of what enters or leaves a layer. Both merge into the layer's weight and bias."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.inject import ParametrizedLinear, parametrize_weights, pretrained_tensor
from moppa.utils.errors import UserError


def prepend_affine(layer: nn.Linear, adapter: nn.Module) -> None:
    """Makes `layer` read `adapter(x) = J x + j` for some J and j: W' = W J, c' = W j + c.

    Raises:
        UserError: if another method changes W already.
    """
    weight = pretrained_tensor(layer, "weight")
    if weight is not layer.weight or weight is None:
        raise UserError(
            "an adapter that merges into the weights before which it stands reads nothing of what another method adds "
            "to them: attach it first"
        )
    parametrize_weights(layer, bias=PrependedBias(adapter, weight), weight=PrependedWeight(adapter))


def check_bias(layer: nn.Module, model: nn.Module, *, method: str) -> None:
    """Raises `UserError` if a layer of a model lacks the bias that a method shifts."""
    if getattr(layer, "bias", None) is None:
        raise UserError(
            f"{method} shifts biases, and {layer} of {type(model).__name__} has none: choose a backbone that has them"
        )


class PrependedWeight(nn.Module):
    """W' = W J. A training step computes W adapter(x) + c instead, whose gradients are small."""

    def __init__(self, adapter: nn.Module) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        unit_vectors = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        return F.linear(weight, self.adapter(unit_vectors) - constant(self.adapter, weight))

    def layer_output(self, layer: ParametrizedLinear, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Returns W adapter(x) + c."""
        return layer.pretrained_output(self.adapter(x))


class PrependedBias(nn.Module):
    """c' = W j + c, with the layer's pretrained W."""

    def __init__(self, adapter: nn.Module, weight: nn.Parameter) -> None:
        super().__init__()
        self.adapter, self.pretrained = adapter, weight

    def forward(self, bias: Float[Tensor, " d_out"]) -> Float[Tensor, " d_out"]:
        return F.linear(constant(self.adapter, self.pretrained), self.pretrained, bias)


def constant(adapter: nn.Module, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, " d_in"]:
    """Returns j = adapter(0)."""
    return adapter(weight.new_zeros(weight.shape[1]))


def append_scale_and_shift(layer: nn.Module, scale: nn.Parameter, shift: nn.Parameter) -> None:
    """Makes `layer` return scale * y + shift, with one number per output: W' = scale * W, c' = scale * c + shift."""
    parametrize_weights(layer, weight=ScaledWeight(scale), bias=ScaledShiftedBias(scale, shift))


def append_scale(layer: nn.Module, scale: nn.Parameter) -> None:
    """Makes `layer` return scale * y, with one number per output: W' = scale * W, c' = scale * c."""
    has_bias = getattr(layer, "bias", None) is not None
    parametrize_weights(layer, weight=ScaledWeight(scale), **({"bias": ScaledBias(scale)} if has_bias else {}))


class ScaledWeight(nn.Module):
    """W' = scale * W by rows."""

    def __init__(self, scale: nn.Parameter) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, weight: Float[Tensor, "d_out *rest"]) -> Float[Tensor, "d_out *rest"]:
        return self.scale.view(-1, *[1] * (weight.ndim - 1)) * weight


class ScaledShiftedBias(nn.Module):
    """c' = scale * c + shift. A training step of a linear layer computes scale * y + shift instead."""

    def __init__(self, scale: nn.Parameter, shift: nn.Parameter) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, bias: Float[Tensor, " d_out"]) -> Float[Tensor, " d_out"]:
        return self.scale * bias + self.shift

    def layer_output(self, layer: ParametrizedLinear, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Returns scale * y + shift, where y is the output of the pretrained layer."""
        y = layer.pretrained_output(x)
        return torch.addcmul(self.shift, self.scale, y).to(y.dtype)


class ScaledBias(nn.Module):
    """c' = scale * c. A training step of a linear layer computes scale * y instead."""

    def __init__(self, scale: nn.Parameter) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, bias: Float[Tensor, " d_out"]) -> Float[Tensor, " d_out"]:
        return self.scale * bias

    def layer_output(self, layer: ParametrizedLinear, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Returns scale * y, where y is the output of the layer without it."""
        y = layer.pretrained_output(x)
        return (self.scale * y).to(y.dtype)
