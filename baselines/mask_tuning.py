"""Mask tuning: learned binary masks of the pretrained weights.

Zheng et al., "Regularized Mask Tuning: Uncovering Hidden Knowledge in Pre-trained Vision-Language Models", ICCV 2023,
arXiv 2307.15049; the authors' code: github.com/wuw2019/R-AMT.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from moppa.peft.inject import parametrize_weights
from moppa.peft.pieces import adapted_matrices
from moppa.peft.sensitivity import Batches, sensitivities
from moppa.peft.targets import target_linears
from moppa.utils import validate


class MaskDelta(nn.Module):
    """W' = m W at some positions; m = 1 for a latent above the threshold, else 0. The latent has the gradient of m."""

    def __init__(
        self, index: Int[Tensor, " positions"], like: Tensor, *, initial: float, threshold: float, dropout: float
    ) -> None:
        super().__init__()
        self.register_buffer("index", index, persistent=False)
        self.latent = nn.Parameter(like.new_full((len(index),), initial))
        self.threshold, self.dropout = threshold, dropout

    def mask(self) -> Float[Tensor, " positions"]:
        """Returns m. In training each gradient is dropped with probability `dropout`."""
        latent = self.latent
        if self.dropout and self.training:
            latent = torch.where(torch.rand_like(latent) < self.dropout, latent.detach(), latent)
        return (latent > self.threshold).to(latent.dtype) + (latent - latent.detach())  # the second is exactly 0

    def forward(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        flat, index = weight.flatten().to(self.latent.dtype), self.get_buffer("index")
        return flat.index_add(0, index, flat[index] * (self.mask() - 1)).view_as(weight)


def attach(
    model: nn.Module,
    *,
    targets: Sequence[str],
    fraction: float,
    initial: float,
    threshold: float,
    dropout: float,
    num_images: int,
    batch_size: int,
    head_seed: int,
    examples: Callable[[], Batches],
) -> None:
    """Masks a `fraction` of each target (q, k, v, proj, fc1, fc2): the weights with the largest gradients.

    SPT sums their squares over the first `num_images` of `examples`, with a head drawn from `head_seed`. All latents
    start at `initial`, above the `threshold`.
    """
    validate.number("fraction", fraction, minimum=0, maximum=1, exclusive_minimum=True)
    validate.number("threshold", threshold, minimum=0)
    validate.number("initial", initial, minimum=threshold, exclusive_minimum=True)
    validate.number("dropout", dropout, minimum=0, maximum=0.99)
    validate.integer("num_images", num_images, minimum=1)
    validate.integer("batch_size", batch_size, minimum=1)
    validate.integer("head_seed", head_seed, minimum=0)
    linears = target_linears(model, targets, method="Mask tuning")
    pieces = [piece for target in linears for piece in adapted_matrices(target)]
    scores = sensitivities(model, pieces, examples(), num_images=num_images, batch_size=batch_size, head_seed=head_seed)
    selected: dict[Any, list[Tensor]] = {}
    for piece, score in zip(pieces, scores, strict=True):
        largest = score.topk(max(1, int(fraction * len(score)))).indices
        selected.setdefault(piece.layer, []).append(piece.start * piece.parameter.shape[1] + largest)
    for layer, index in selected.items():
        delta = MaskDelta(torch.cat(index), layer.weight, initial=initial, threshold=threshold, dropout=dropout)
        parametrize_weights(layer, weight=delta)
