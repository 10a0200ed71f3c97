"""LOT: Sun et al., "Towards Minimizing Feature Drift in Model Merging: Layer-wise Task Vector Fusion for Adaptive
Knowledge Integration", NeurIPS 2025, arXiv 2505.23859.
"""

from collections.abc import Sequence

from torch import Tensor

from moppa.merging.layer_inputs import layer_inputs
from moppa.merging.regmean import add_expert, solved, with_means
from moppa.merging.training_images import TrainingImages
from moppa.merging.updates import Delta, dense
from moppa.utils import validate


def merge(deltas: Sequence[Delta], *, num_images: int, seed: int, training: TrainingImages) -> dict[str, Tensor]:
    """Returns the layers whose outputs drift least from those of the experts, in the least squares over all images.

    A linear layer is (sum_t G_t)^+ sum_t G_t tau_t, with G_t = X_t^T X_t of the expert's inputs; the scale of a norm is
    the mean of the experts', weighted channel by channel with the squared norm of what it reads. Others are averaged.
    """
    validate.integer("num_images", num_images, minimum=1)
    linear: dict[str, tuple[Tensor, Tensor]] = {}
    norms: dict[str, tuple[Tensor, Tensor]] = {}  # sums of the weights, and of the weighted updates
    for task, delta in enumerate(deltas):
        for name, inputs in layer_inputs(delta, task, training, num_images=num_images, seed=seed).items():
            if inputs.ndim == 2:
                add_expert(linear, name, inputs, dense(delta[name]))
            else:
                weights, weighted = norms.get(name, (0 * inputs, 0 * inputs))
                norms[name] = (weights + inputs, weighted + inputs * dense(delta[name]))
    merged = {name: solved(gram, target) for name, (gram, target) in linear.items()}
    merged |= {name: weighted / weights.clamp(min=1e-12) for name, (weights, weighted) in norms.items()}
    return with_means(deltas, merged)
