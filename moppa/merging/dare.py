"""DARE: Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch",
ICML 2024, arXiv 2311.03099.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from moppa.merging import task_arithmetic, ties
from moppa.merging.updates import Delta, dense
from moppa.utils import validate
from moppa.utils.seeds import generator_for


def merge(deltas: Sequence[Delta], *, drop: float, combine: str, keep: float | None, seed: int) -> dict[str, Tensor]:
    """Returns the deltas with a share `drop` of their entries set to 0 and the rest scaled up, combined.

    `combine` is task_arithmetic, or ties with its `keep`. The seed decides the masks.
    """
    validate.number("drop", drop, minimum=0.0, maximum=0.99)
    dropped = [Dropped(delta, drop, seed, index) for index, delta in enumerate(deltas)]
    if validate.one_of("combine", combine, ("task_arithmetic", "ties")) == "ties":
        return ties.merge(dropped, keep=validate.number("keep", keep, minimum=0.0, maximum=1.0))
    return task_arithmetic.merge(dropped)


class Dropped(Mapping[str, Tensor]):
    """A delta with dropped entries. They are drawn when a tensor is read, the same ones each time."""

    def __init__(self, delta: Delta, drop: float, seed: int, index: int) -> None:
        self.delta, self.drop, self.seed, self.index = delta, drop, seed, index

    def __getitem__(self, name: str) -> Tensor:
        update = dense(self.delta[name])
        draws = torch.rand(update.shape, generator=generator_for(self.seed, "dare", self.index, name))
        return torch.where(draws < self.drop, 0.0, update / (1 - self.drop))

    def __iter__(self) -> Iterator[str]:
        return iter(self.delta)

    def __len__(self) -> int:
        return len(self.delta)
