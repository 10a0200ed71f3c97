"""WUDI: Cheng et al., "Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task
Vectors", ICML 2025, arXiv 2503.08099.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from moppa.merging.updates import Delta, Update, dense, merge_matrices, total
from moppa.utils import validate


def merge(deltas: Sequence[Delta], *, steps: int, lr: float) -> dict[str, Tensor]:
    """Returns the matrices that interfere least with the experts: argmin sum_t |(tau - tau_t) tau_t^T|^2 / |tau_t|^2.

    Adam starts from the sum. Tensors that are no matrices are averaged.
    """
    validate.integer("steps", steps, minimum=0)
    validate.number("lr", lr, minimum=0.0)
    return merge_matrices(deltas, partial(merge_matrix, steps=steps, lr=lr))


def merge_matrix(updates: Sequence[Update], *, steps: int, lr: float) -> Tensor:
    """Returns the merged matrix. The gradient is 2 (tau G - H), so that no step reads the experts again."""
    start = total(updates)
    gram, target = start.new_zeros(start.shape[1], start.shape[1]), torch.zeros_like(start)
    for update in map(dense, updates):
        norm = update.square().sum()
        if norm > 0:
            own = update.T @ update / norm
            gram += own
            target += update @ own
    merged = torch.nn.Parameter(start)
    optimizer = torch.optim.Adam([merged], lr=lr)
    for _ in range(steps):
        merged.grad = 2 * (merged.detach() @ gram - target)
        optimizer.step()
    return merged.detach()
