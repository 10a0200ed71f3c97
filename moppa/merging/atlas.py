"""aTLAS: Zhang et al., "Knowledge Composition using Task Vectors with Learned Anisotropic Scaling", NeurIPS 2024,
arXiv 2407.02880.
"""

from collections.abc import Sequence

from torch import Tensor

from moppa.merging.learned import cross_entropy, learn_coefficients
from moppa.merging.training_images import TrainingImages
from moppa.merging.updates import Delta, tensor_names


def merge(
    deltas: Sequence[Delta],
    *,
    initial: float,
    steps: int,
    lr: float,
    batch_size: int,
    seed: int,
    training: TrainingImages,
) -> dict[str, Tensor]:
    """Returns the sum of the deltas with one coefficient for every expert and tensor, learned on labeled images."""
    groups = {name: index for index, name in enumerate(tensor_names(deltas))}
    return learn_coefficients(
        deltas,
        training,
        groups=groups,
        loss=cross_entropy,
        initial=initial,
        steps=steps,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
    )
