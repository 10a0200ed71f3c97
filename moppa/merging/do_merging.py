"""DO-Merging: Zheng et al., "Decouple and Orthogonalize: A Data-Free Framework for LoRA Merging", arXiv 2505.15875."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from moppa.merging.updates import Delta, LowRank, Update, decompose, dense, merge_matrices
from moppa.utils import validate


def merge(deltas: Sequence[Delta], *, steps: int, lr: float, penalty: float) -> dict[str, Tensor]:
    """Returns the mean column norms of the experts' matrices times their mean directions.

    Before, gradient steps move the factors of every expert a little, such that they are orthogonal to those of the
    others. A dense matrix has the factors U S^1/2 and S^1/2 V^T. Tensors that are no matrices are averaged.
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
    """Returns the factors of a matrix; of a dense one, those of its singular value decomposition."""
    if isinstance(update, LowRank):
        return update
    u, s, vh = decompose(dense(update))
    return LowRank(u * s.sqrt(), s.sqrt()[:, None] * vh)


def orthogonalized(factors: Sequence[Tensor], *, steps: int, lr: float, penalty: float) -> list[Tensor]:
    """Returns factors (dim, rank) after steps down sum_{i != j} |F_i^T F_j|^2 + penalty sum_i |change of F_i|^2.

    For the steps the factors side by side are scaled to spectral norm 1, so that one learning rate suits all layers.
    """
    side_by_side = torch.cat(list(factors), dim=1)
    norm = torch.linalg.matrix_norm(side_by_side, 2).clamp(min=torch.finfo(side_by_side.dtype).tiny)
    start = side_by_side / norm
    owner = torch.cat([torch.full((factor.shape[1],), index) for index, factor in enumerate(factors)])
    is_between = owner[:, None] != owner[None, :]
    moved = start.clone()
    for _ in range(steps):
        overlap = (moved.T @ moved) * is_between
        moved = moved - lr * (4 * moved @ overlap + 2 * penalty * (moved - start))
    return list((moved * norm).split([factor.shape[1] for factor in factors], dim=1))
