"""PCB: Du et al., "Parameter Competition Balancing for Model Merging", NeurIPS 2024, arXiv 2410.02396."""

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor

from moppa.merging.updates import Delta, StoredDelta, flat, stack, tensor_names
from moppa.utils import validate


class Range(NamedTuple):
    """The lower and the upper end of the values of one expert, to which others are clamped."""

    low: Tensor
    high: Tensor

    def clamp(self, values: Tensor) -> Tensor:
        """Returns the values inside of the range."""
        return values.clamp(self.low, self.high)

    def scaled(self, values: Tensor) -> Tensor:
        """Returns the clamped values, from 0 at the lower end to 1 at the upper one."""
        return (self.clamp(values) - self.low) / (self.high - self.low).clamp(min=torch.finfo(values.dtype).tiny)


def merge(deltas: Sequence[Delta], *, keep: float, clip: float) -> dict[str, Tensor]:
    """Returns the mean of the deltas, weighted entry by entry with scores from 0 to 1.

    score_t = exp(T n_t^2) tanh(tau_t sum_s sign(tau_s) n_s), n_t = |tau_t| scaled to 0 ... 1 per expert. The share
    1 - keep with the lowest scores of an expert gets 0. The shares `clip` of the smallest and of the largest magnitudes
    are clamped.
    """
    validate.number("keep", keep, minimum=0.0, maximum=1.0, exclusive_minimum=True)
    validate.number("clip", clip, minimum=0.0, maximum=0.49)
    names = tensor_names(deltas)
    magnitudes = [ends_of(flat(delta, deltas).abs(), clip, 1 - clip) for delta in deltas]

    def competition(name: str) -> tuple[Tensor, Tensor]:
        """Returns the clamped updates and their unscaled scores, (experts, ...) each."""
        updates = stack(deltas, name)
        sizes = torch.stack([ends.scaled(update.abs()) for ends, update in zip(magnitudes, updates, strict=True)])
        clamped = torch.stack([ends.clamp(update.abs()) for ends, update in zip(magnitudes, updates, strict=True)])
        within = (len(deltas) * sizes.square()).exp()
        between = (updates * (updates.sign() * sizes).sum(dim=0)).tanh()
        return updates.sign() * clamped, within * between

    with TemporaryDirectory() as folder:  # the scores of all experts
        stored = [StoredDelta(Path(folder, str(index))) for index in range(len(deltas))]
        for name in names:
            for own, score in zip(stored, competition(name)[1], strict=True):
                own.store(name, score)
        scores = [ends_of(flat(own, stored), 1 - keep, 1.0) for own in stored]
    merged = {}
    for name in names:
        updates, competing = competition(name)
        weights = torch.stack([ends.scaled(score) for ends, score in zip(scores, competing, strict=True)])
        merged[name] = (updates * weights).sum(dim=0) / weights.sum(dim=0).clamp(min=1e-12)
    return merged


def ends_of(values: Tensor, low: float, high: float) -> Range:
    """Returns the values at two shares of their order, as the authors' code counts them."""
    count = values.numel()
    first, last = min(count, math.floor(count * low + 1e-9) + 1), max(1, math.floor(count * high + 1e-9))
    return Range(values.kthvalue(first).values, values.kthvalue(max(first, last)).values)
