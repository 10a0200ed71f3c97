"""Updates of a whole weight that are as large as the weight itself, such as its rescaling."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.inject import ParametrizedLinear
from moppa.peft.low_rank import is_autocast_enabled


class DenseDelta(nn.Module):
    """W' = W + U(W); a method defines the update U. A step needs the gradient of the whole weight."""

    def update(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        """Returns U(W)."""
        raise NotImplementedError

    def forward(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        return weight + self.update(weight)

    def layer_output(self, layer: ParametrizedLinear, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Returns W' x + b', in half precision as W x + b' + U(W) x."""
        weight, bias = layer.pretrained("weight"), layer.bias  # type: ignore[attr-defined]
        if is_autocast_enabled(x.device.type):  # bfloat16 has eight bits, in which W + U(W) loses a small update
            return F.linear(x, weight, bias) + F.linear(x, self.update(weight))
        return F.linear(x, self(weight), bias)
