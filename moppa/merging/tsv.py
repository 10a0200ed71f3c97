"""TSV-M: Gargiulo et al., "Task Singular Vectors: Reducing Task Interference in Model Merging", CVPR 2025,
arXiv 2412.00081.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from moppa.merging.updates import Decomposition, Delta, Update, decompose, merge_matrices, orthonormal


def merge(deltas: Sequence[Delta]) -> dict[str, Tensor]:
    """Returns the largest singular vectors of every expert, made orthogonal to those of the others, with their values.

    Each of T experts keeps 1 / T of the directions that a matrix has. Tensors that are no matrices are averaged.
    """
    return merge_matrices(deltas, merge_matrix)


def merge_matrix(updates: Sequence[Update]) -> Tensor:
    """Returns the merged matrix."""
    rank = max(1, min(updates[0].shape) // len(updates))
    u, s, vh = side_by_side([decompose(update).cut(rank) for update in updates])
    return (orthonormal(u) * s) @ orthonormal(vh.T).T


def side_by_side(parts: Sequence[Decomposition]) -> Decomposition:
    """Returns the singular vectors and values of several matrices in one."""
    return Decomposition(
        torch.cat([part.u for part in parts], dim=1),
        torch.cat([part.s for part in parts]),
        torch.cat([part.vh for part in parts]),
    )
