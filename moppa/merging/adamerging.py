"""AdaMerging: Yang et al., "AdaMerging: Adaptive Model Merging for Multi-Task Learning", ICLR 2024,
arXiv 2310.02575.
"""

from collections.abc import Sequence

from torch import Tensor

from moppa.merging.learned import entropy, learn_coefficients
from moppa.merging.lines import block_numbers
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
    """Returns the sum of the deltas with one coefficient for every expert and block, learned without labels.

    The coefficients minimize the entropy of the predictions on training images. The authors adapt on test images.
    """
    return learn_coefficients(
        deltas,
        training,
        groups=block_numbers(tensor_names(deltas)),
        loss=entropy,
        initial=initial,
        steps=steps,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
    )
