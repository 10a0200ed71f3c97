"""RepAdapter: Luo et al., "Towards Efficient Visual Adaption via Structural Re-parameterization", arXiv 2302.08106."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.affine import check_bias, prepend_affine
from moppa.peft.targets import target_linears
from moppa.utils import validate
from moppa.utils.errors import SettingError

TARGETS = ("q", "k", "v", "fc1")  # the layers that read the adapters before attention and before the MLP


class Adapter(nn.Module):
    """z + s (B (A z + a) + b), with B block-diagonal in groups and zero at the start.

    It is linear, so that it merges into the layer after it.
    """

    def __init__(
        self, dim: int, *, bottleneck: int, groups: int, scale: float, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.groups, self.scale = groups, scale
        self.down, self.down_bias = nn.Parameter(torch.empty(bottleneck, dim)), nn.Parameter(torch.zeros(bottleneck))
        self.up, self.up_bias = nn.Parameter(torch.zeros(dim, bottleneck // groups)), nn.Parameter(torch.zeros(dim))
        nn.init.xavier_uniform_(self.down, generator=generator)  # as in the authors' code

    def forward(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        hidden = F.linear(z, self.down, self.down_bias)
        up = torch.block_diag(*self.up.chunk(self.groups))  # a group of channels reads its part of the bottleneck
        return z + self.scale * F.linear(hidden, up, self.up_bias)


def attach(model: nn.Module, *, bottleneck: int, groups: int, scale: float, generator: torch.Generator | None) -> None:
    """Inserts an adapter before attention and one before the MLP of every block of a transformer.

    The authors' code also has dropout in the bottleneck, which a merged weight cannot have, and a form for ConvNeXt,
    into whose depthwise convolution an adapter cannot merge. A Swin pads its windows after their adapters, and before
    ours, as before theirs once they are merged.
    """
    validate.integer("bottleneck", bottleneck, minimum=1)
    validate.integer("groups", groups, minimum=1)
    validate.number("scale", scale, minimum=0, exclusive_minimum=True)
    for target in target_linears(model, TARGETS, method="RepAdapter"):
        layer = target.layer
        if bottleneck % groups or layer.in_features % groups:
            raise SettingError(
                "groups",
                f"={groups}: it must divide the bottleneck {bottleneck} and the backbone's width {layer.in_features}",
            )
        check_bias(layer, model, method="RepAdapter")
        adapter = Adapter(layer.in_features, bottleneck=bottleneck, groups=groups, scale=scale, generator=generator)
        prepend_affine(layer, adapter)
