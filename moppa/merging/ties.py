"""TIES: Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023, arXiv 2306.01708."""

from collections.abc import Sequence

import torch
from torch import Tensor

from moppa.merging.updates import Delta, flat, stack, tensor_names
from moppa.utils import validate


def merge(deltas: Sequence[Delta], *, keep: float) -> dict[str, Tensor]:
    """Returns, entry by entry, the mean of the trimmed updates that have the elected sign.

    Of each expert only the share `keep` with the largest magnitudes stays, over all tensors that the experts change.
    The sign of the sum is elected, or the sign of most entries if the sum is zero.
    """
    validate.number("keep", keep, minimum=0.0, maximum=1.0, exclusive_minimum=True)
    names = tensor_names(deltas)
    thresholds = torch.stack([smallest_kept(flat(delta, deltas).abs(), keep) for delta in deltas])

    def trimmed(name: str) -> Tensor:
        updates = stack(deltas, name)
        return torch.where(updates.abs() >= thresholds.view(-1, *[1] * (updates.ndim - 1)), updates, 0.0)

    usual_sign = torch.stack([trimmed(name).sum(dim=0).sign().sum() for name in names]).sum().sign()
    return {name: disjoint_mean(trimmed(name), usual_sign) for name in names}


def smallest_kept(magnitudes: Tensor, keep: float) -> Tensor:
    """Returns the smallest of the share of magnitudes that are kept, at least one."""
    num_kept = max(1, round(keep * magnitudes.numel()))
    return magnitudes.kthvalue(magnitudes.numel() - num_kept + 1).values


def disjoint_mean(updates: Tensor, usual_sign: Tensor) -> Tensor:
    """Returns the mean over the experts (the first axis) whose entry has the sign of the sum, 0 if none has."""
    sign = updates.sum(dim=0).sign()
    agrees = updates.sign() == torch.where(sign == 0, usual_sign, sign)
    return (updates * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)
