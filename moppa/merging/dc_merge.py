"""DC-Merge: Zhang et al., "DC-Merge: Improving Model Merging with Directional Consistency", arXiv 2603.06242."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from moppa.merging.ties import disjoint_mean, smallest_kept
from moppa.merging.tsv import side_by_side
from moppa.merging.updates import Decomposition, Delta, Update, decompose, merge_matrices, orthonormal
from moppa.utils import validate


def merge(deltas: Sequence[Delta], *, rank: int, smoothing: str, max_ratio: float, keep: float) -> dict[str, Tensor]:
    """Returns the experts' balanced matrices, merged in a basis that is orthogonal and covers all of them.

    A matrix is cut at `rank`. Its singular values are replaced by their mean, or if `smoothing` is linear by a line
    whose ends have the ratio of the largest to the smallest, at most `max_ratio`. In the common basis the share `keep`
    of the largest entries, at least `rank`, stays of each expert. Tensors that are no matrices are averaged.
    """
    validate.integer("rank", rank, minimum=1)
    validate.one_of("smoothing", smoothing, ("mean", "linear"))
    validate.number("max_ratio", max_ratio, minimum=1.0)
    validate.number("keep", keep, minimum=0.0, maximum=1.0)
    settings = {"rank": rank, "smoothing": smoothing, "max_ratio": max_ratio, "keep": keep}
    return merge_matrices(deltas, partial(merge_matrix, **settings))


def merge_matrix(updates: Sequence[Update], *, rank: int, smoothing: str, max_ratio: float, keep: float) -> Tensor:
    """Returns the merged matrix. Each direction of the common basis is one expert's; entries between two are 0."""
    rank = min(rank, max(1, min(updates[0].shape) // len(updates)))
    cut = [decompose(update).cut(rank) for update in updates]
    balanced = [Decomposition(part.u, smoothed(part.s, smoothing, max_ratio), part.vh) for part in cut]
    u, _, vh = side_by_side(balanced)
    u, vh = orthonormal(u), orthonormal(vh.T).T
    projected = torch.stack([(u.T @ (part.u * part.s)) @ (part.vh @ vh.T) for part in balanced])
    share = max(keep, max(len(part.s) for part in balanced) / projected[0].numel())
    trimmed = [matrix * (matrix.abs() >= smallest_kept(matrix.abs().flatten(), share)) for matrix in projected]
    own = torch.block_diag(*[torch.ones(len(part.s), len(part.s), dtype=u.dtype) for part in balanced])
    return u @ (disjoint_mean(torch.stack(trimmed), torch.zeros((), dtype=u.dtype)) * own) @ vh


def smoothed(s: Tensor, smoothing: str, max_ratio: float) -> Tensor:
    """Returns singular values with the same sum, which are equal or fall along a line."""
    if smoothing == "mean" or not len(s):
        return s.mean().expand_as(s)
    ratio = min(max_ratio, float(s[0] / s[-1].clamp(min=torch.finfo(s.dtype).tiny)))
    line = torch.linspace(ratio, 1.0, len(s), dtype=s.dtype)
    return s.sum() * line / line.sum()
