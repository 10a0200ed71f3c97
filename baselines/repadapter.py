"""RepAdapter: Luo et al., "Towards Efficient Visual Adaption via Structural Re-parameterization", arXiv 2302.08106."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.inject import DirectLinear, parametrize_weights
from moppa.peft.low_rank import target_linears
from moppa.utils import validate
from moppa.utils.errors import UserError
from moppa.utils.matmul import linear

READERS = ("q", "k", "v", "fc1")  # what reads the adapters before attention and before the MLP


class Adapter(nn.Module):
    """z + s (B (A z + a) + b), B in groups along its diagonal and zero at the start.

    It is linear, so the layer after it can take it in: W (I + s B A) is then its weight, c + s W (B a + b) its bias.
    """

    def __init__(
        self, dim: int, *, bottleneck: int, groups: int, scale: float, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.groups, self.scale = groups, scale
        self.down, self.down_bias = nn.Parameter(torch.empty(bottleneck, dim)), nn.Parameter(torch.zeros(bottleneck))
        # zero, so that the first step starts from the frozen model
        self.up, self.up_bias = nn.Parameter(torch.zeros(dim, bottleneck // groups)), nn.Parameter(torch.zeros(dim))
        nn.init.xavier_uniform_(self.down, generator=generator)  # as in the authors' code

    def forward(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        hidden = linear(z, self.down, self.down_bias)
        return z + self.scale * linear(hidden, self.dense_up, self.up_bias)

    @property
    def dense_up(self) -> Float[Tensor, "dim bottleneck"]:
        """B with its zeros: each group of channels reads its own part of the bottleneck."""
        return torch.block_diag(*self.up.chunk(self.groups))


class WeightAfter(nn.Module):
    """W' = W + s W B A."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        return weight + self.adapter.scale * (weight @ self.adapter.dense_up) @ self.adapter.down

    def applied(self, layer: DirectLinear, x: Tensor) -> Tensor:
        """W (z + s (B (A z + a) + b)) + c."""
        return layer.plain(self.adapter(x))


class BiasAfter(nn.Module):
    """c' = c + s W (B a + b), with W the pretrained weight, which this shares with its layer."""

    def __init__(self, adapter: Adapter, weight: nn.Parameter) -> None:
        super().__init__()
        self.adapter, self.pretrained = adapter, weight

    def forward(self, bias: Float[Tensor, " d_out"]) -> Float[Tensor, " d_out"]:
        shift = self.adapter.dense_up @ self.adapter.down_bias + self.adapter.up_bias
        return bias + self.adapter.scale * self.pretrained @ shift


def attach(model: nn.Module, *, bottleneck: int, groups: int, scale: float, generator: torch.Generator | None) -> None:
    """Puts an adapter before attention and one before the MLP of every block of a transformer.

    The authors' code has dropout in the bottleneck, which a weight has no place for, and a form for ConvNeXt, whose
    depthwise convolution cannot take in an adapter. A Swin that pads its windows pads behind their adapters, and before
    ours, as before theirs once merged.
    """
    validate.integer("method.attach.bottleneck", bottleneck, minimum=1)
    validate.integer("method.attach.groups", groups, minimum=1)
    validate.number("method.attach.scale", scale, minimum=0, exclusive_minimum=True)
    for adapted in target_linears(model, READERS, method="RepAdapter"):
        layer = adapted.layer
        if bottleneck % groups or layer.in_features % groups:
            raise UserError(
                f"method.attach.groups={groups}: it must divide the bottleneck {bottleneck} and the backbone's width "
                f"{layer.in_features}"
            )
        if layer.bias is None:
            raise UserError(
                f"RepAdapter shifts the biases of qkv and fc1; those of {type(model).__name__} have none: "
                f"choose a backbone that has them"
            )
        adapter = Adapter(layer.in_features, bottleneck=bottleneck, groups=groups, scale=scale, generator=generator)
        parametrize_weights(layer, bias=BiasAfter(adapter, layer.weight), weight=WeightAfter(adapter))
