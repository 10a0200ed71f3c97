"""Batches of a split: in the order of training, and in the split's own order."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from moppa.backbone.preprocess import Preprocess
from moppa.data.split import Split
from moppa.train.recipe import Recipe
from moppa.utils.seeds import generator_for


def training_batches(
    num_images: int, recipe: Recipe, *, seed: int, start: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[int, Tensor]]:
    """Yields (step, indices) from step `start` on. Seed and pass decide the order of the images in a pass over them.

    The order is moved to the device once per epoch, so that no step waits for a copy.
    """
    steps_per_epoch = recipe.steps_per_epoch(num_images)
    for epoch in range(start // steps_per_epoch, recipe.epochs):
        order = epoch_order(num_images, recipe.epoch_size(num_images), seed=seed, epoch=epoch)
        batches = order.to(device).split(recipe.batch_size)[:steps_per_epoch]
        for index, batch in enumerate(batches):
            step = epoch * steps_per_epoch + index
            if step >= start:
                yield step, batch


def epoch_order(num_images: int, epoch_size: int, *, seed: int, epoch: int) -> Tensor:
    """Returns the indices of the images of an epoch: the next `epoch_size` of an endless row of shuffled passes."""
    first_pass, start = divmod(epoch * epoch_size, num_images)
    num_passes = -(-(start + epoch_size) // num_images)
    passes = range(first_pass, first_pass + num_passes)
    orders = [torch.randperm(num_images, generator=generator_for(seed, "order", index)) for index in passes]
    return torch.cat(orders)[start : start + epoch_size]


def example_batches(
    split: Split, recipe: Recipe, preprocess: Preprocess, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (images (B, 3, S, S), labels (B,)) of a split in order, for methods that read images before training."""
    for start in range(0, len(split.labels), recipe.batch_size):
        rows = slice(start, start + recipe.batch_size)
        images = torch.from_numpy(np.array(split.images[rows])).to(device)
        labels = torch.from_numpy(np.array(split.labels[rows])).to(device)
        yield preprocess.normalize(images), labels
