"""Which pretrained weights matter most for a task, and which of them a budget of trainable parameters can pay for.

He et al., "Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning", ICCV 2023, arXiv 2303.08566.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moppa.utils.errors import SettingError

NUM_CANDIDATES, MAX_FACTOR = 80, 4  # numbers of sensitive weights to try, up to this multiple of the budget

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(kw_only=True, eq=False)
class Piece:
    """One matrix or vector: rows `start` to `stop` of a tensor.

    It is tuned as a whole, for `whole_cost` parameters, if at least `whole_from` of its weights are sensitive. If fewer
    are and it `is_divisible`, these are tuned alone.
    """

    layer: nn.Module
    tensor: str
    start: int
    stop: int
    whole_cost: int
    whole_from: float
    is_divisible: bool

    @property
    def parameter(self) -> nn.Parameter:
        """The pretrained tensor that contains the piece."""
        return getattr(self.layer, self.tensor)

    def is_whole(self, sensitive: Tensor) -> bool:
        """Returns whether a piece with these sensitive weights is tuned as a whole."""
        return len(sensitive) >= self.whole_from

    def positions(self, sensitive: Tensor) -> Tensor:
        """Returns which weights of the flat tensor are tuned: all of the piece, the sensitive ones, or none."""
        num_columns = self.parameter[0].numel()
        if self.is_whole(sensitive):
            sensitive = torch.arange((self.stop - self.start) * num_columns, device=sensitive.device)
        elif not self.is_divisible:
            sensitive = sensitive[:0]
        return self.start * num_columns + sensitive


Members = Sequence[tuple[Piece, Tensor]]  # the pieces of a layer and the indices of their sensitive weights


def sensitivities(
    model: Any, pieces: Sequence[Piece], batches: Batches, *, num_images: int, batch_size: int, head_seed: int
) -> list[Tensor]:
    """Returns each weight's squared gradient summed over batches, per piece: the loss that one step gains.

    The first `num_images` images are read in batches of `batch_size`, all if there are fewer. The model runs in eval
    mode, without drop path. Its head, still untrained, is drawn from `head_seed` and restored afterwards. No parameter
    is changed.
    """
    parameters = list({id(piece.parameter): piece.parameter for piece in pieces}.values())
    totals = {id(parameter): torch.zeros_like(parameter) for parameter in parameters}
    head = model.get_classifier()
    initial_head = [(tensor, tensor.detach().clone()) for tensor in head.parameters()]

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(images), labels)

    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(head_seed)).mul_(0.02))
    for gradients in batch_gradients(model, parameters, divided(batches, num_images, batch_size), loss):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            totals[id(parameter)] += gradient**2

    with torch.no_grad():
        for tensor, value in initial_head:
            tensor.copy_(value)
    return [totals[id(piece.parameter)][piece.start : piece.stop].flatten() for piece in pieces]


def batch_gradients(
    model: nn.Module, parameters: Sequence[Tensor], batches: Batches, loss: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[tuple[Tensor, ...]]:
    """Yields the gradients of `loss(images, labels)` for each batch, in eval mode; the parameters are frozen again."""
    was_training = model.training
    for parameter in parameters:
        parameter.requires_grad_(True)
    model.eval()
    for images, labels in batches:
        yield torch.autograd.grad(loss(images, labels), parameters)
    model.train(was_training)
    for parameter in parameters:
        parameter.requires_grad_(False)


def divided(batches: Batches, num_images: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the first `num_images` images and their labels in batches of `batch_size`; the last may be smaller."""
    waiting: list[tuple[Tensor, Tensor]] = []
    for images, labels in batches:
        count = sum(len(some) for some, _ in waiting)
        waiting.append((images[: num_images - count], labels[: num_images - count]))
        parts = [torch.cat(tensors).split(batch_size) for tensors in zip(*waiting, strict=True)]
        *full, last = zip(*parts, strict=True)
        yield from full
        waiting, num_images = [last], num_images - batch_size * len(full)
        if len(last[1]) == num_images:
            break
    if waiting:
        yield waiting[0]


def select_sensitive(scores: Sequence[Tensor], pieces: Sequence[Piece], budget: int) -> list[Tensor]:
    """Returns the indices of each piece's sensitive weights: the highest scores of all, as many as the budget can pay.

    Their number has no closed form, since a piece that is tuned as a whole costs `whole_cost`. The largest affordable
    one of 80 numbers up to four times the budget is taken.
    """
    everything = torch.cat(list(scores))
    sizes = torch.tensor([len(score) for score in scores], device=everything.device)
    ends = sizes.cumsum(0)
    order = everything.topk(min(MAX_FACTOR * budget, len(everything))).indices
    piece_of = torch.bucketize(order, ends, right=True)
    whole_cost = torch.tensor([piece.whole_cost for piece in pieces], device=everything.device)
    whole_from = torch.tensor([piece.whole_from for piece in pieces], device=everything.device)
    is_divisible = torch.tensor([piece.is_divisible for piece in pieces], device=everything.device)
    num_sensitive = 1  # the lowest possible cost: one weight
    for step in range(1, NUM_CANDIDATES + 1):
        candidate = math.ceil(len(order) * step / NUM_CANDIDATES)
        counts = torch.bincount(piece_of[:candidate], minlength=len(pieces))
        if int(torch.where(counts >= whole_from, whole_cost, counts * is_divisible).sum()) <= budget:
            num_sensitive = candidate
    starts = ends - sizes
    sensitive, owners = order[:num_sensitive], piece_of[:num_sensitive]
    return [sensitive[owners == index] - starts[index] for index in range(len(pieces))]


def tune_class_token(model: nn.Module, budget: int) -> int:
    """Unfreezes the class token, if the model has one, and returns the rest of the budget.

    Raises:
        SettingError: if nothing is left.
    """
    class_token = getattr(model, "cls_token", None)
    num_values = 0 if class_token is None else class_token.numel()
    if budget <= num_values:
        raise SettingError("budget", f"={budget} is spent on the class token alone ({num_values}): raise it")
    if class_token is not None:
        class_token.requires_grad_(True)
    return budget - num_values


def select_by_layer(scores: Sequence[Tensor], pieces: Sequence[Piece], budget: int) -> dict[nn.Module, Members]:
    """Returns what `select_sensitive` selects, for each layer with its pieces."""
    selected: dict[nn.Module, list[tuple[Piece, Tensor]]] = {}
    for piece, index in zip(pieces, select_sensitive(scores, pieces, budget), strict=True):
        selected.setdefault(piece.layer, []).append((piece, index))
    return dict(selected)
