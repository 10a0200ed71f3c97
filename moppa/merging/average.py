"""Average: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time", ICML 2022, arXiv 2203.05482.
"""

from collections.abc import Sequence

from torch import Tensor

from moppa.merging.updates import Delta, tensor_names, total, updates_of


def merge(deltas: Sequence[Delta]) -> dict[str, Tensor]:
    """Returns the mean of the deltas."""
    return {name: total(updates_of(deltas, name)) / len(deltas) for name in tensor_names(deltas)}
