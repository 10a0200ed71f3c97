"""Iso-C: Marczak et al., "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces",
ICML 2025, arXiv 2502.04959.
"""

from collections.abc import Sequence

from torch import Tensor

from moppa.merging.updates import Delta, Update, concatenated, decompose, merge_matrices


def merge(deltas: Sequence[Delta]) -> dict[str, Tensor]:
    """Returns the sum of the deltas with all singular values of a matrix set to their mean.

    The sum of T updates of rank r has T r singular values at most: the others are 0 and stay 0. Tensors that are no
    matrices are averaged.
    """
    return merge_matrices(deltas, merge_matrix)


def merge_matrix(updates: Sequence[Update]) -> Tensor:
    """Returns the merged matrix."""
    u, s, vh = decompose(concatenated(updates))
    return s.mean() * (u @ vh)
