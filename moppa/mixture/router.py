"""The router of a MoPPA unit: it weighs the priors against each other."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moppa.utils.errors import UserError

Weights = Float[Tensor, "#batch priors"]  # one row if all images share the weights


class Router(nn.Module):
    """a = softmax(rate (W mean_tokens(X) + b)): the mixing weights of the priors, uniform at the start.

    A router that is not dynamic has no W, so all images share one row. With a single prior there are no parameters,
    and its weight is 1.

    Args:
        width: Number of channels of X.
        num_priors: Number of priors to weigh.
        is_dynamic: Whether the weights depend on the image.
        rate: Factor on the logits, and so on the updates of W and b under Adam.
        penalty_weight: Factor on the route regularization.
    """

    weight_sum: Tensor
    num_steps: Tensor

    def __init__(self, width: int, num_priors: int, *, is_dynamic: bool, rate: float, penalty_weight: float) -> None:
        super().__init__()
        self.rate, self.penalty_weight = rate, penalty_weight
        has_choice = num_priors > 1
        self.bias = nn.Parameter(torch.zeros(num_priors)) if has_choice else None
        self.weight = nn.Parameter(torch.zeros(num_priors, width)) if has_choice and is_dynamic else None
        self.register_buffer("weight_sum", torch.zeros(num_priors), persistent=False)
        self.register_buffer("num_steps", torch.zeros(()), persistent=False)
        self.last_weights: Tensor | None = None

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Weights:
        weights = self.mixing_weights(x)
        if self.training:
            self.last_weights = weights
        return weights

    def mixing_weights(self, x: Float[Tensor, "batch tokens width"]) -> Weights:
        """Returns the mixing weights, one row per image or one row for all."""
        shared = self.shared_weights()
        if shared is not None:
            return shared
        assert self.bias is not None
        assert self.weight is not None
        return (self.rate * (self.bias + F.linear(x.mean(dim=1), self.weight))).softmax(dim=-1)

    def shared_weights(self) -> Float[Tensor, "1 priors"] | None:
        """Returns the mixing weights if all images share them, else None."""
        if self.bias is None:
            return self.weight_sum.new_ones(1, 1)
        return (self.rate * self.bias[None]).softmax(dim=-1) if self.weight is None else None

    def penalty(self, progress: Tensor | float) -> Tensor:
        """Returns lambda g KL(mean_batch(a) || uniform) for the last training batch.

        g falls linearly from 1 to 0 over the first half of the training.
        """
        if self.last_weights is None:
            raise UserError("moppa.penalty(model) needs a forward pass in training mode before it, a new one each time")
        mean, self.last_weights = self.last_weights.mean(dim=0), None
        self.weight_sum += mean.detach()
        self.num_steps += 1
        weight = self.penalty_weight * (1 - 2 * torch.as_tensor(progress)).clamp(min=0.0)
        return weight * (mean * (len(mean) * mean).log()).sum()

    def pop_mean_weights(self) -> Float[Tensor, " priors"]:
        """Returns the mean mixing weights over the steps since the last call."""
        mean = self.weight_sum / self.num_steps.clamp(min=1)
        self.weight_sum.zero_()
        self.num_steps.zero_()
        return mean

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "last_weights": None}  # deepcopy cannot copy a tensor with a gradient history
