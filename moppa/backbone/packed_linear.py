"""Frozen linear layers that keep their weight as integers of 8 or 4 bits and compute it again for each pass."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int8, Integer, UInt8
from torch import Tensor, nn

from moppa.backbone.quantize import Quantized, QuantizedLayer
from moppa.utils.matmul import linear


class PackedLinear(nn.Linear):
    """A linear layer with the weight s Q, whose integers Q take one byte each, or half a byte with 4 bits.

    Outputs and gradients are those of the layer that it replaces. It needs less memory, and more time.
    """

    def __init__(self, layer: nn.Linear, quantized: Quantized) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_parameter("bias", layer.bias)
        codes = quantized.codes.to(torch.int8)
        self.register_buffer("codes", pack_int4(codes) if quantized.bits == 4 else codes, persistent=False)
        self.register_buffer("scale", quantized.scale, persistent=False)
        self.train(layer.training)

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:  # type: ignore[override]
        """The weight, which is computed."""
        return unpacked_weight(self.get_buffer("codes"), self.get_buffer("scale"), self.in_features)

    def forward(self, input: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Returns x W^T + b."""
        return PackedProduct.apply(input, self.bias, self.get_buffer("codes"), self.get_buffer("scale"))


class PackedProduct(torch.autograd.Function):
    """x W^T + b with a packed W. No tensor of the weight's size is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, codes: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scale)
        ctx.d_in = x.shape[-1]
        return linear(x, unpacked_weight(codes, scale, ctx.d_in), bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        needs_dx, needs_dbias, *_ = ctx.needs_input_grad
        codes, scale = ctx.saved_tensors
        dx = linear(dy, unpacked_weight(codes, scale, ctx.d_in).to(dy.dtype).T, None) if needs_dx else None
        return dx, dy.flatten(0, -2).sum(dim=0) if needs_dbias else None, None, None


def unpacked_weight(
    codes: Integer[Tensor, "d_out bytes"], scale: Float[Tensor, "d_out 1"], d_in: int
) -> Float[Tensor, "d_out d_in"]:
    """Returns s Q, from codes of one byte (int8) or two codes in a byte (uint8)."""
    unpacked = unpack_int4(codes)[:, :d_in] if codes.dtype == torch.uint8 else codes
    return unpacked.to(scale.dtype) * scale


def pack_int4(codes: Int8[Tensor, "d_out d_in"]) -> UInt8[Tensor, "d_out half"]:
    """Returns pairs of codes from -7 to 7 as bytes; an odd last one has an empty neighbor."""
    shifted = nn.functional.pad(codes, (0, codes.shape[1] % 2)).add(8).to(torch.uint8)
    return shifted[:, ::2] | shifted[:, 1::2] << 4


def unpack_int4(packed: UInt8[Tensor, "d_out half"]) -> Int8[Tensor, "d_out d_in"]:
    """Returns the codes of `pack_int4`, with the empty neighbor if there is one."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1).to(torch.int8) - 8


def pack(model: nn.Module, layers: Sequence[QuantizedLayer]) -> nn.Module:
    """Replaces the quantized layers that no method has changed by packed ones, in place, and returns the model."""
    quantized = {id(layer.parameter): layer.quantized for layer in layers}
    for owner in list(model.modules()):
        for name, layer in list(owner.named_children()):
            if type(layer) is nn.Linear and id(layer.weight) in quantized:
                setattr(owner, name, PackedLinear(layer, quantized[id(layer.weight)]))
    return model
