"""Concrete Task Arithmetic: Tang et al., "Concrete Subspace Learning Based Interference Elimination for Multi-Task
Model Fusion", arXiv 2312.06173.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from moppa.merging import task_arithmetic
from moppa.merging.learned import entropy, weight_gradients
from moppa.merging.training_images import TrainingImages
from moppa.merging.updates import Delta
from moppa.utils import validate
from moppa.utils.seeds import generator_for


def merge(
    deltas: Sequence[Delta],
    *,
    scale: float,
    temperature: float,
    steps: int,
    lr: float,
    batch_size: int,
    seed: int,
    training: TrainingImages,
) -> dict[str, Tensor]:
    """Returns the sum of the deltas under one mask, which minimizes the entropy of the predictions on training images.

    While it is learned, the mask of every entry is drawn from a relaxed Bernoulli distribution with a learned logit;
    at the end it is sigmoid(logit / temperature). A mask is divided by its mean over the tensor. `scale` is that of the
    sum during learning. The authors adapt on test images.
    """
    validate.number("temperature", temperature, minimum=0.0, exclusive_minimum=True)
    validate.integer("steps", steps, minimum=0)
    summed = task_arithmetic.merge(deltas)
    logits = {name: torch.nn.Parameter(torch.zeros_like(tensor)) for name, tensor in summed.items()}
    optimizer = torch.optim.Adam(logits.values(), lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        masks = {name: mask_of(logit + noise(name, logit, step, seed), temperature) for name, logit in logits.items()}
        masked = {name: scale * mask.detach() * summed[name] for name, mask in masks.items()}
        gradients = weight_gradients(masked, training, loss=entropy, batch_size=batch_size, step=step, seed=seed)
        backward(masks, {name: scale * gradients[name] * summed[name] for name in masks})
        optimizer.step()
    with torch.no_grad():
        return {name: mask_of(logits[name], temperature) * tensor for name, tensor in summed.items()}


def mask_of(logits: Tensor, temperature: float) -> Tensor:
    """Returns a soft mask with mean 1."""
    mask = torch.sigmoid(logits / temperature)
    return mask / mask.mean()


def noise(name: str, logits: Tensor, step: int, seed: int) -> Tensor:
    """Returns logistic noise, which makes a sigmoid a relaxed draw of 0 or 1."""
    uniform = torch.rand(logits.shape, generator=generator_for(seed, "concrete", name, step)).clamp(1e-6, 1 - 1e-6)
    return uniform.log() - (1 - uniform).log()


def backward(outputs: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
    """Propagates the gradient of every output."""
    torch.autograd.backward(list(outputs.values()), [gradients[name].expand_as(out) for name, out in outputs.items()])
