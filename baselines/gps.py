"""GPS: Zhang et al., "Gradient-based Parameter Selection for Efficient Fine-Tuning", CVPR 2024, arXiv 2312.10136."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from moppa.peft.blocks import find_blocks
from moppa.peft.inject import parametrize_weights
from moppa.peft.sensitivity import Batches, batch_gradients, divided
from moppa.peft.sparse import SparseDelta
from moppa.utils import validate


def contrastive_loss(
    features: Float[Tensor, "views dim"], labels: Int[Tensor, " views"], temperature: float
) -> Float[Tensor, ""]:
    """Returns the supervised contrastive loss (Khosla et al., 2020); every label occurs at least twice."""
    features = F.normalize(features, dim=1)
    is_self = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    is_positive = (labels[:, None] == labels) & ~is_self
    log_probability = (features @ features.T / temperature).masked_fill(is_self, -torch.inf).log_softmax(dim=1)
    return -(log_probability.masked_fill(~is_positive, 0).sum(dim=1) / is_positive.sum(dim=1)).mean()


def two_view_loss(model: Any, images: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Returns the loss of the features that the head reads, of the images and of their mirror images."""
    views = torch.cat([images, images.flip(-1)])
    features = model.forward_head(model.forward_features(views), pre_logits=True)
    return contrastive_loss(features, labels.repeat(2), temperature)


def attach(
    model: Any,
    *,
    num_connections: int,
    temperature: float,
    num_images: int,
    batch_size: int,
    examples: Callable[[], Batches],
) -> None:
    """Tunes each output's `num_connections` weights with the largest gradients, and the biases, of all layers.

    The gradients are those of a supervised contrastive loss, summed over the first `num_images` of `examples`. They do
    not depend on the head. Layers are linear or convolutions; norms, tokens and positions stay frozen.
    """
    validate.integer("num_connections", num_connections, minimum=1)
    validate.number("temperature", temperature, minimum=0, exclusive_minimum=True)
    validate.integer("num_images", num_images, minimum=1)
    validate.integer("batch_size", batch_size, minimum=1)
    find_blocks(model)  # names a model without blocks
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer is not model.get_classifier()
    ]
    weights = [layer.weight for layer in layers]
    totals = [torch.zeros_like(weight) for weight in weights]
    loss = partial(two_view_loss, model, temperature=temperature)
    for gradients in batch_gradients(model, weights, divided(examples(), num_images, batch_size), loss):
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient
    for layer, total in zip(layers, totals, strict=True):
        magnitudes = total.flatten(1).abs()
        num_outputs, num_inputs = magnitudes.shape
        columns = magnitudes.topk(min(num_connections, num_inputs), dim=1).indices
        index = columns + num_inputs * torch.arange(num_outputs, device=columns.device)[:, None]
        if layer.bias is not None:
            layer.bias.requires_grad_(True)
        parametrize_weights(layer, weight=SparseDelta(index.flatten(), like=layer.weight))
