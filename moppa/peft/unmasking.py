"""A growing set of single weights that are tuned, of all layers together: step-by-step unmasking.

Agarwal et al., "Step-by-Step Unmasking for Parameter-Efficient Fine-tuning of Large Language Models", 2024,
arXiv 2408.14470.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from moppa.utils.errors import UserError


class Unmasking(nn.Module):
    """The tuned weights: `values` are added to the weights at `positions`, in the order in which they were unmasked.

    A position counts through the weights of all layers; `total`, their number, stands for a value without a weight.
    After each step of the optimizer the masked weights with the largest importance |g| / (|W| + epsilon)^exponent are
    unmasked, so many that their number is `budget` times the progress of the training; one step adds at most
    `max_per_step`. An unmasked weight stays unmasked. It starts from its pretrained value.
    """

    positions: Tensor

    def __init__(
        self, sizes: Sequence[int], *, budget: int, max_per_step: int, epsilon: float, exponent: float
    ) -> None:
        super().__init__()
        self.total, self.budget = sum(sizes), min(budget, sum(sizes))
        self.max_per_step, self.epsilon, self.exponent = min(max_per_step, self.budget), epsilon, exponent
        self.values = nn.Parameter(torch.zeros(self.budget))
        self.register_buffer("positions", torch.full((self.budget,), self.total))
        self.candidates: dict[int, tuple[Tensor, Tensor]] = {}  # by the layer's first position, of the last backward

    @torch.no_grad()
    def after_step(self, progress: Tensor | float) -> None:
        """Unmasks the most important weights of the last backward pass.

        Raises:
            UserError: if there was none.
        """
        if not self.candidates:
            raise UserError("ID3 compares gradients after a step: call moppa.after_step once after each backward pass")
        num_unmasked = (self.positions < self.total).sum()
        wanted = (torch.as_tensor(progress, device=self.positions.device) * self.budget).long()
        importance, positions = (torch.cat(parts) for parts in zip(*self.candidates.values(), strict=True))
        rank = torch.arange(self.max_per_step, device=positions.device)
        chosen = positions[importance.topk(self.max_per_step).indices]
        slots = torch.where(num_unmasked + rank < wanted, num_unmasked + rank, self.budget)  # the last is one too many
        self.positions.copy_(torch.cat([self.positions, self.positions[:1]]).index_copy(0, slots, chosen)[:-1])
        self.candidates.clear()


class UnmaskedDelta(nn.Module):
    """W' = W + the values at those positions that lie in the layer, whose weights start at `first`."""

    def __init__(self, unmasking: Unmasking, *, first: int) -> None:
        super().__init__()
        self.unmasking, self.first = unmasking, first

    def forward(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return AddUnmasked.apply(self.unmasking.values, weight.to(self.unmasking.values.dtype), self)

    def index(self, size: int) -> Int[Tensor, " budget"]:
        """Returns the index of each value in the flat weight, or `size` for those of other layers."""
        local = self.unmasking.positions - self.first
        return torch.where((local < 0) | (local >= size), size, local)

    def keep_candidates(self, gradient: Float[Tensor, " size"], weight: Float[Tensor, " size"]) -> None:
        """Stores the most important masked weights of the layer."""
        shared = self.unmasking
        importance = gradient.abs() / (weight.abs() + shared.epsilon) ** shared.exponent
        masked = torch.cat([importance, importance[:1]]).index_fill(0, self.index(len(weight)), -1.0)[:-1]
        best = masked.topk(min(shared.max_per_step, len(weight)))
        shared.candidates[self.first] = best.values, best.indices + self.first


class AddUnmasked(torch.autograd.Function):
    """W + values at their positions. The backward pass compares the weights, too, which only it can: it has dW'."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, delta: UnmaskedDelta) -> Tensor:
        ctx.delta = delta
        ctx.save_for_backward(weight)
        padded = torch.cat([weight.flatten(), weight.new_zeros(1)])
        return padded.index_add(0, delta.index(weight.numel()), values)[:-1].view_as(weight)

    @staticmethod
    def backward(ctx: Any, dweight: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        [weight] = ctx.saved_tensors
        gradient = dweight.flatten()
        ctx.delta.keep_candidates(gradient, weight.flatten())
        index = ctx.delta.index(len(gradient))
        return torch.cat([gradient, gradient.new_zeros(1)])[index], None, None
