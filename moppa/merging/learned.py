"""Learning a merged delta on training images: its gradient by tensor, without the experts in memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from moppa.merging.training_images import TrainingImages
from moppa.merging.updates import Delta, LowRank, Update, dense, tensor_names, updates_of
from moppa.utils import validate

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits and labels


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean cross-entropy with the labels."""
    return F.cross_entropy(logits, labels)


def entropy(logits: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG001
    """Returns the mean entropy of the predictions, which needs no labels."""
    return -(logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1).mean()


def weight_gradients(
    delta: Mapping[str, Tensor], training: TrainingImages, *, loss: Loss, batch_size: int, step: int, seed: int
) -> dict[str, Tensor]:
    """Returns the gradient of the loss, summed over all tasks, at the pretrained tensors plus a delta.

    Each task gives a batch of training images, and reads its own head.
    """
    training.set_delta(delta)
    parameters = dict(training.network.named_parameters())
    for name in delta:
        parameters[name].requires_grad_(True)
    try:
        for task in range(training.num_tasks):
            images, labels = training.draw(task, batch_size, step, seed=seed)
            loss(training.logits(images, task), labels).backward()
        gradients = {name: parameters[name].grad for name in delta}
        return {name: torch.zeros(()) if grad is None else grad.float().cpu() for name, grad in gradients.items()}
    finally:
        for name in delta:
            parameters[name].requires_grad_(False)
            parameters[name].grad = None


def learn_coefficients(
    deltas: Sequence[Delta],
    training: TrainingImages,
    *,
    groups: Mapping[str, int],
    loss: Loss,
    initial: float,
    steps: int,
    lr: float,
    batch_size: int,
    seed: int,
) -> dict[str, Tensor]:
    """Returns sum_t c_tg tau_t with one learned coefficient for every expert and group of tensors.

    `groups` maps the name of a tensor to its group. Adam starts from `initial`.
    """
    for name, value in {"steps": steps, "batch_size": batch_size}.items():
        validate.integer(name, value, minimum=0 if name == "steps" else 1)
    validate.number("lr", lr, minimum=0.0)
    coefficients = torch.nn.Parameter(torch.full((len(deltas), max(groups.values()) + 1), float(initial)))
    optimizer = torch.optim.Adam([coefficients], lr=lr)
    for step in range(steps):
        merged = dict(combined(deltas, coefficients.detach(), groups))
        gradients = weight_gradients(merged, training, loss=loss, batch_size=batch_size, step=step, seed=seed)
        coefficients.grad = torch.zeros_like(coefficients)
        for name, gradient in gradients.items():
            products = [inner_product(update, gradient) for update in updates_of(deltas, name)]
            coefficients.grad[:, groups[name]] += torch.stack(products)
        optimizer.step()
    return dict(combined(deltas, coefficients.detach(), groups))


def combined(deltas: Sequence[Delta], coefficients: Tensor, groups: Mapping[str, int]) -> Iterator[tuple[str, Tensor]]:
    """Yields the weighted sum of the experts' updates of every tensor."""
    for name in tensor_names(deltas):
        updates = zip(coefficients[:, groups[name]].tolist(), updates_of(deltas, name), strict=True)
        yield name, torch.stack([coefficient * dense(update) for coefficient, update in updates]).sum(dim=0)


def inner_product(update: Update, gradient: Tensor) -> Tensor:
    """Returns the sum of the products of the entries."""
    if isinstance(update, LowRank):
        return ((update.up.T @ gradient) * update.down).sum() if gradient.ndim else gradient.float()
    return (update * gradient).sum()
