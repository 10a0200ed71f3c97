"""GLoRA: Chavan et al., "One-for-All: Generalized LoRA for Parameter-Efficient Fine-tuning", arXiv 2306.07967."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from moppa.peft.affine import check_bias
from moppa.peft.dense import DenseDelta
from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import check_rank
from moppa.peft.targets import TARGETS, target_linears
from moppa.utils import validate

LAYERS = ("qkv", "proj", "fc1", "fc2")


def low_rank(rank: int, d_out: int, d_in: int, generator: Generator | None) -> tuple[nn.Parameter, nn.Parameter]:
    """Returns the factors (d_out, r), zero, and (r, d_in), drawn as in the authors' code."""
    right = nn.Parameter(torch.empty(rank, d_in))
    nn.init.xavier_uniform_(right, generator=generator)
    return nn.Parameter(torch.zeros(d_out, rank)), right


class GeneralizedWeight(DenseDelta):
    """W' = W + W * A + B, entry by entry, with A and B of rank r, zero at the start."""

    def __init__(self, layer: nn.Linear, rank: int, generator: Generator | None) -> None:
        super().__init__()
        d_out, d_in = layer.out_features, layer.in_features
        self.scale_up, self.scale_down = low_rank(rank, d_out, d_in, generator)
        self.up, self.down = low_rank(rank, d_out, d_in, generator)

    def update(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        """Returns W * A + B."""
        return weight * (self.scale_up @ self.scale_down) + self.up @ self.down


class GeneralizedBias(nn.Module):
    """b' = b + D * b + E + W C, with the layer's pretrained W; D, E and C = U V, of inner width r, start at zero."""

    def __init__(self, layer: nn.Linear, rank: int, generator: Generator | None) -> None:
        super().__init__()
        self.pretrained = layer.get_parameter("weight")
        self.scale, self.shift = (nn.Parameter(torch.zeros(layer.out_features)) for _ in range(2))
        self.prompt_up, self.prompt_down = low_rank(rank, layer.in_features, 1, generator)

    def forward(self, bias: Float[Tensor, " d_out"]) -> Float[Tensor, " d_out"]:
        prompt = self.pretrained @ (self.prompt_up @ self.prompt_down[:, 0])
        return bias + self.scale * bias + self.shift + prompt


def attach(model: nn.Module, *, rank: int, targets: Sequence[str], generator: Generator | None) -> None:
    """Generalizes each target (qkv, proj, fc1, fc2) of every block: W' = W + W * A + B, b' = b + D * b + E + W C.

    This is the authors' supernet in its full form: A, B and C of rank r, D and E vectors. Their supernet draws a
    smaller form of each for every layer and step, and an evolutionary search selects one. qkv is one weight.
    """
    validate.subset("targets", targets, LAYERS)
    layers = [target.layer for target in target_linears(model, expanded(targets), method="GLoRA")]
    for layer in layers:
        check_rank(rank, (layer.out_features, layer.in_features))
        check_bias(layer, model, method="GLoRA")
    for layer in layers:
        weight, bias = GeneralizedWeight(layer, rank, generator), GeneralizedBias(layer, rank, generator)
        parametrize_weights(layer, weight=weight, bias=bias)


def expanded(targets: Sequence[str]) -> list[str]:
    """Returns the names of the matrices: those of q, k and v for qkv."""
    return [name for target in targets for name in (TARGETS[:3] if target == "qkv" else (target,))]
