"""The images of a training on the device: all of them once, or those of each step after their augmentation."""

from collections.abc import Callable, Iterator
from itertools import tee

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from moppa.data.split import Split
from moppa.train.augmentation import Augmenter

Batches = Iterator[tuple[int, Tensor]]


class TrainImages:
    """The images (N, S, S, 3) uint8 or features (N, D) of a split and their labels, on a device."""

    def __init__(self, split: Split, normalize: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self.images = torch.from_numpy(np.array(split.images)).to(device)
        self.labels = torch.from_numpy(np.array(split.labels)).to(device)
        self.normalize = normalize

    def selected(self, batches: Batches) -> Batches:
        """Yields (step, indices) for `read`."""
        return batches

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the model's inputs and the labels."""
        return self.normalize(self.images[indices]), self.labels[indices]


class AugmentedImages:
    """The augmented images of one step and their labels, in tensors that stay where they are, as a recording needs."""

    def __init__(self, split: Split, augment: Augmenter, device: torch.device, *, batch_size: int) -> None:
        self.dataset, self.num_workers = AugmentedDataset(split, augment), augment.num_workers
        _, height, width = self.dataset[0, 0][0].shape
        self.inputs = torch.zeros(batch_size, height, width, 3, device=device)  # in memory like the cached images
        self.labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.positions = torch.arange(batch_size, device=device)

    def selected(self, batches: Batches) -> Batches:
        """Yields (step, positions) for `read`, once the images of the step are at these positions."""
        steps, ahead = tee(batches)
        keys = ([(step, index) for index in batch.tolist()] for step, batch in ahead)
        loader = DataLoader(
            self.dataset,
            batch_sampler=keys,  # type: ignore[arg-type]  # a sampler needs no length
            num_workers=self.num_workers,
            generator=torch.Generator(),  # else it draws from the one that dropout draws from
        )
        for (step, batch), (inputs, labels) in zip(steps, loader, strict=True):
            self.inputs[: len(batch)].copy_(inputs.permute(0, 2, 3, 1))
            self.labels[: len(batch)].copy_(labels)
            yield step, self.positions[: len(batch)]

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the model's inputs and the labels."""
        return self.inputs[indices].permute(0, 3, 1, 2), self.labels[indices]


class AugmentedDataset(Dataset):
    """The augmented images of a split and their labels, by (step, index)."""

    def __init__(self, split: Split, augment: Augmenter) -> None:
        self.split, self.augment = split, augment

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        step, index = key
        image = self.augment(np.array(self.split.images[index]), step=step, index=index)
        return image, int(self.split.labels[index])


def train_images(
    split: Split,
    normalize: Callable[[Tensor], Tensor],
    augment: Augmenter | None,
    device: torch.device,
    *,
    batch_size: int,
) -> TrainImages | AugmentedImages:
    """Returns the images of a split as a training reads them: as they are, or augmented for each step."""
    if augment is None:
        return TrainImages(split, normalize, device)
    return AugmentedImages(split, augment, device, batch_size=batch_size)
