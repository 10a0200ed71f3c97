"""RegMean: Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023,
arXiv 2212.09849.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from moppa.merging.layer_inputs import layer_inputs
from moppa.merging.training_images import TrainingImages
from moppa.merging.updates import Delta, dense, tensor_names, total, updates_of
from moppa.utils import validate


def merge(
    deltas: Sequence[Delta], *, num_images: int, diagonal: float, seed: int, training: TrainingImages
) -> dict[str, Tensor]:
    """Returns (sum_t G_t)^-1 sum_t G_t tau_t for linear layers, with G_t = X_t^T X_t of the expert's own inputs.

    Entries of G_t outside of its diagonal are multiplied by `diagonal`. All other tensors are averaged.
    """
    validate.integer("num_images", num_images, minimum=1)
    validate.number("diagonal", diagonal, minimum=0.0, maximum=1.0)
    sums: dict[str, tuple[Tensor, Tensor]] = {}  # of G_t and of tau_t G_t
    for task, delta in enumerate(deltas):
        for name, gram in layer_inputs(delta, task, training, num_images=num_images, seed=seed).items():
            if gram.ndim == 2:
                add_expert(sums, name, shrunk(gram, diagonal), dense(delta[name]))
    return with_means(deltas, {name: solved(gram, target) for name, (gram, target) in sums.items()})


def with_means(deltas: Sequence[Delta], merged: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a merged delta to which the mean of every tensor is added that it lacks."""
    others = [name for name in tensor_names(deltas) if name not in merged]
    return merged | {name: total(updates_of(deltas, name)) / len(deltas) for name in others}


def add_expert(sums: dict[str, tuple[Tensor, Tensor]], name: str, gram: Tensor, update: Tensor) -> None:
    """Adds one expert to the sums, so that no more than one is in memory."""
    before = sums.get(name, (torch.zeros_like(gram), torch.zeros_like(update)))
    sums[name] = (before[0] + gram, before[1] + update @ gram)


def shrunk(gram: Tensor, share: float) -> Tensor:
    """Returns a Gram matrix whose entries outside of the diagonal are multiplied by a share."""
    return share * gram + (1 - share) * torch.diag(gram.diagonal())


def solved(gram: Tensor, target: Tensor) -> Tensor:
    """Returns target gram^+, with the pseudoinverse where inputs never vary."""
    return (target.double() @ torch.linalg.pinv(gram.double(), hermitian=True)).to(target.dtype)
