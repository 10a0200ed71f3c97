"""Task Arithmetic: Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, arXiv 2212.04089."""

from collections.abc import Sequence

from torch import Tensor

from moppa.merging.updates import Delta, tensor_names, total, updates_of


def merge(deltas: Sequence[Delta]) -> dict[str, Tensor]:
    """Returns the sum of the deltas."""
    return {name: total(updates_of(deltas, name)) for name in tensor_names(deltas)}
