"""DO-Merging: Zheng et al., "Decouple and Orthogonalize: A Data-Free Framework for LoRA Merging", arXiv 2505.15875."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from moppa.merging.updates import Delta, LowRank, Update, decompose, merge_matrices
from moppa.utils import validate


def merge(deltas: Sequence[Delta], *, steps: int, lr: float, penalty: float) -> dict[str, Tensor]:
    """Returns the mean column norms of the experts' matrices times their mean directions.

    Before, gradient steps move the factors of every expert a little, such that they are orthogonal to those of the
    others. The factors of a matrix U S V^T are U S^1/2 and S^1/2 V^T. Tensors that are no matrices are averaged.
    """
    validate.integer("steps", steps, minimum=0)
    validate.number("lr", lr, minimum=0.0)
    validate.number("penalty", penalty, minimum=0.0)
    return merge_matrices(deltas, partial(merge_matrix, steps=steps, lr=lr, penalty=penalty))


def merge_matrix(updates: Sequence[Update], *, steps: int, lr: float, penalty: float) -> Tensor:
    """Returns the merged matrix."""
    factors = [factors_of(update) for update in updates]
    ups = orthogonalized([factor.up for factor in factors], steps=steps, lr=lr, penalty=penalty)
    downs = orthogonalized([factor.down.T for factor in factors], steps=steps, lr=lr, penalty=penalty)
    matrices = torch.stack([up @ down.T for up, down in zip(ups, downs, strict=True)])
    norms = matrices.norm(dim=1, keepdim=True)  # of the columns
    directions = matrices / norms.clamp(min=torch.finfo(norms.dtype).tiny)
    return norms.mean(dim=0) * directions.mean(dim=0)


def factors_of(update: Update) -> LowRank:
    """Returns the factors of a matrix from its singular value decomposition, so that a method's own do not matter."""
    u, s, vh = decompose(update)
    return LowRank(u * s.sqrt(), s.sqrt()[:, None] * vh)


def orthogonalized(factors: Sequence[Tensor], *, steps: int, lr: float, penalty: float) -> list[Tensor]:
    """Returns factors (dim, rank) after steps down sum_{i != j} |F_i^T F_j|^2 + penalty sum_i |change of F_i|^2.

    For the steps the factors side by side are scaled to spectral norm 1, so that one learning rate suits all layers.
    """
    side_by_side = torch.cat(list(factors), dim=1)
    is_wide = side_by_side.shape[0] < side_by_side.shape[1]
    gram = side_by_side @ side_by_side.T if is_wide else side_by_side.T @ side_by_side
    norm = torch.linalg.eigvalsh(gram)[-1].clamp(min=torch.finfo(gram.dtype).tiny).sqrt()
    start = side_by_side / norm
    moved, sizes = start.clone(), [factor.shape[1] for factor in factors]
    for _ in range(steps):
        own = torch.cat([factor @ (factor.T @ factor) for factor in moved.split(sizes, dim=1)], dim=1)
        overlap = torch.linalg.multi_dot([moved, moved.T, moved]) - own
        moved = moved - lr * (4 * overlap + 2 * penalty * (moved - start))
    return list((moved * norm).split(sizes, dim=1))
