"""Iso-CTS: Marczak et al., "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces",
ICML 2025, arXiv 2502.04959.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from moppa.merging.tsv import side_by_side
from moppa.merging.updates import (
    Decomposition,
    Delta,
    LowRank,
    Update,
    concatenated,
    decompose,
    merge_matrices,
    orthonormal,
)
from moppa.utils import validate


def merge(deltas: Sequence[Delta], *, common: float) -> dict[str, Tensor]:
    """Returns Iso-C with a share `common` of the directions of the sum, and directions of single experts for the rest.

    Those of an expert are the largest ones of what the common directions leave of it. All are made orthogonal and get
    the same singular value, the mean. Tensors that are no matrices are averaged.
    """
    validate.number("common", common, minimum=0.0, maximum=1.0)
    return merge_matrices(deltas, partial(merge_matrix, common=common))


def merge_matrix(updates: Sequence[Update], *, common: float) -> Tensor:
    """Returns the merged matrix."""
    summed = decompose(concatenated(updates))
    num_own = round(len(summed.s) * (1 - common) / len(updates))
    shared = summed.cut(len(summed.s) - num_own * len(updates))
    own = [decompose(without(update, shared)).cut(num_own) for update in updates]
    u, s, vh = side_by_side([shared, *own])
    return s.mean() * (orthonormal(u) @ orthonormal(vh.T).T)


def without(update: Update, shared: Decomposition) -> Update:
    """Returns what is left of a matrix outside of the shared directions of its output."""
    if isinstance(update, LowRank):
        return LowRank(update.up - shared.u @ (shared.u.T @ update.up), update.down)
    return update - shared.u @ (shared.u.T @ update)
