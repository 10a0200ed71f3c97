"""What enters the linear layers and norms of an expert, summed over its training images."""

from collections.abc import Iterator

from torch import Tensor, nn

from moppa.merging.training_images import TrainingImages
from moppa.merging.updates import Delta
from moppa.peft.layer_inputs import summed_inputs

BATCH = 32  # images


def layer_inputs(delta: Delta, task: int, training: TrainingImages, *, num_images: int, seed: int) -> dict[str, Tensor]:
    """Returns the sums by the name of the layer's weight, of an expert on some training images of its task.

    A linear layer has X^T X (d_in, d_in), a norm the squared norm of every normalized channel (dim,).
    """
    training.set_delta(delta)
    images, _ = training.draw(task, num_images, "inputs", seed=seed)
    names = list(recorded_layers(training.network, delta))
    sums = summed_inputs(training.network, names, images.split(BATCH))
    return {f"{name}.weight": total for name, total in sums.items()}


def recorded_layers(network: nn.Module, delta: Delta) -> Iterator[str]:
    """Yields the names of the linear layers and norms whose weight an expert changes."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.LayerNorm) and f"{name}.weight" in delta:
            yield name
