"""OPCM: Tang et al., "Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable Continual Model
Merging", NeurIPS 2025, arXiv 2501.09522.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from moppa.merging.updates import Delta, dense, flat, tensor_names, update_of
from moppa.utils import validate
from moppa.utils.seeds import generator_for


def merge(deltas: Sequence[Delta], *, alpha: float, seed: int) -> dict[str, Tensor]:
    """Returns the deltas merged one after another, in an order that the seed decides."""
    order = torch.randperm(len(deltas), generator=generator_for(seed, "opcm")).tolist()
    return merge_in_order([deltas[index] for index in order], alpha=alpha)


def merge_in_order(deltas: Sequence[Delta], *, alpha: float) -> dict[str, Tensor]:
    """Returns the deltas merged one after another, in the order that they have.

    What an expert adds to a matrix loses its diagonal in the basis of the singular vectors of what is merged already,
    and its part in the first directions with a share `alpha` of the sum of singular values. The merged delta then gets
    the mean norm of the experts so far, over all tensors.
    """
    validate.number("alpha", alpha, minimum=0.0, maximum=1.0)
    norms = [flat(delta, deltas).norm() for delta in deltas]
    merged: dict[str, Tensor] = {}
    scale = torch.ones(())
    for step, delta in enumerate(deltas):
        added = {name: dense(update_of(delta, deltas, name)) for name in tensor_names(deltas)}
        if step:
            for name, update in added.items():
                new = outside(update, merged[name], alpha) if update.ndim == 2 else update
                added[name] = scale * merged[name] + new
            norm = torch.stack([tensor.norm() for tensor in added.values()]).norm()
            scale = norm / torch.stack(norms[: step + 1]).mean()
        merged = {name: tensor / scale for name, tensor in added.items()}
    return merged


def outside(update: Tensor, merged: Tensor, alpha: float) -> Tensor:
    """Returns an update without its part in the main directions of what is merged, and without its diagonal there."""
    u, s, vh = torch.linalg.svd(merged, full_matrices=False)
    num_main = int((s.cumsum(dim=0) <= alpha * s.sum()).sum())  # the index at which the share exceeds alpha
    projected = u.T @ update @ vh.T
    removed = torch.diag(projected.diagonal())
    removed[:num_main, :num_main] = projected[:num_main, :num_main]
    return update - u @ removed @ vh
