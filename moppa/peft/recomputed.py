"""A linear layer whose weight is computed again in the backward pass, so that a step keeps nothing of its size."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from moppa.utils.matmul import linear, weight_gradient


class RecomputedLinear(torch.autograd.Function):
    """x W(parameters)^T + b. Only x and the parameters are kept; W must be a function of them alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, weight: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
        ctx.weight = weight
        ctx.save_for_backward(x, *parameters)
        return linear(x, weight(*parameters), bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, *saved = ctx.saved_tensors
        needs_dx, needs_dbias, _, *_ = ctx.needs_input_grad
        parameters = [parameter.detach().requires_grad_() for parameter in saved]
        with torch.enable_grad():
            weight = ctx.weight(*parameters)
        dx = linear(dy, weight.detach().T, None) if needs_dx else None
        dbias = dy.flatten(0, -2).sum(dim=0) if needs_dbias else None
        return dx, dbias, None, *torch.autograd.grad(weight, parameters, weight_gradient(x, dy))
