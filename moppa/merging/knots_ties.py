"""KnOTS-TIES: Stoica et al., "Model merging with SVD to tie the Knots", ICLR 2025, arXiv 2410.19735."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from moppa.merging import ties
from moppa.merging.updates import Delta, LowRank, StoredDelta, Update, dense, tensor_names, total, updates_of

SMALLEST = 1e-5  # of the singular values that are kept, as in the authors' code


def merge(deltas: Sequence[Delta], *, keep: float) -> dict[str, Tensor]:
    """Returns the deltas merged by TIES in the basis that all of them share; tensors that are no matrices are averaged.

    Per matrix, [tau_1 ... tau_T] = U S [V_1 ... V_T]^T. TIES merges the S V_t^T of all matrices, and U takes the result
    back.
    """
    return merge_aligned(deltas, lambda parts: ties.merge(parts, keep=keep))


def merge_aligned(deltas: Sequence[Delta], merge: Callable[[list[Delta]], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the deltas merged by `merge` in the basis that all of them share."""
    merged, bases = {}, {}
    with TemporaryDirectory() as folder:
        aligned = [StoredDelta(Path(folder, str(index))) for index in range(len(deltas))]
        for name in tensor_names(deltas):
            updates = updates_of(deltas, name)
            if len(updates[0].shape) != 2:
                merged[name] = total(updates) / len(updates)
                continue
            bases[name], parts = align(updates)
            for delta, part in zip(aligned, parts, strict=True):
                delta.store(name, part)
        if bases:
            merged |= {name: bases[name] @ part for name, part in merge(list(aligned)).items()}
    return merged


def align(updates: Sequence[Update]) -> tuple[Tensor, list[Tensor]]:
    """Returns U (d_out, k) and the S V_t^T (k, d_in) of every expert."""
    factors = [update for update in updates if isinstance(update, LowRank)]
    if len(factors) < len(updates):
        u, s, vh = torch.linalg.svd(torch.cat([dense(update) for update in updates], dim=1), full_matrices=False)
        rows = vh.split(updates[0].shape[1], dim=1)
    else:  # the same from the factors: that matrix is Q_up R [Q_1 ... Q_T]^T, with orthonormal Q
        q_up, r_up = torch.linalg.qr(torch.cat([factor.up for factor in factors], dim=1))
        bases = [torch.linalg.qr(factor.down.T) for factor in factors]
        blocks = r_up.split([factor.up.shape[1] for factor in factors], dim=1)
        small = [block @ r_down.T for block, (_, r_down) in zip(blocks, bases, strict=True)]
        u, s, vh = torch.linalg.svd(torch.cat(small, dim=1), full_matrices=False)
        u = q_up @ u
        parts = vh.split([part.shape[1] for part in small], dim=1)
        rows = [part @ q_down.T for part, (q_down, _) in zip(parts, bases, strict=True)]
    rank = max(1, int((s > SMALLEST).sum()))
    return u[:, :rank], [(s[:, None] * part)[:rank] for part in rows]
