"""What public code for fine-tuning does: JPEG files, a DataLoader, an ordinary loop."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from moppa.backbone.preprocess import Preprocess
from moppa.bench.steps import NUM_CLASSES
from moppa.peft.collect import trainable_parameters

JPEG_SIZE = (500, 375)  # of most photographs in VTAB's natural tasks
EVAL_BATCH_SIZE = 64


def write_jpegs(folder: Path, count: int) -> list[Path]:
    """Writes seeded JPEG files of a photograph's size: coarse colors, enlarged smoothly, with a little noise."""
    random = np.random.default_rng(0)
    width, height = JPEG_SIZE
    files = []
    for index in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8))
        noise = random.integers(-12, 13, (height, width, 3))
        smooth = np.asarray(coarse.resize(JPEG_SIZE, Image.Resampling.BICUBIC), dtype=np.int64)
        files.append(folder / f"{index}.jpg")
        Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(files[-1], quality=90)
    return files


def any_labels(count: int) -> np.ndarray:
    """Returns labels (count,) int64. Their values do not matter for the time."""
    return np.arange(count, dtype=np.int64) % NUM_CLASSES


class JpegDataset(Dataset):
    """Decodes, resizes and normalizes an image each time it is read, with torchvision."""

    def __init__(self, files: Sequence[Path], preprocess: Preprocess) -> None:
        self.files, self.labels = files, any_labels(len(files))
        self.transform = transforms.Compose(
            [
                transforms.Resize(
                    (preprocess.size, preprocess.size), interpolation=transforms.InterpolationMode.BICUBIC
                ),
                transforms.ToTensor(),
                transforms.Normalize(preprocess.mean, preprocess.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB")), int(self.labels[index])


def jpeg_loops(
    model: nn.Module, dataset: JpegDataset, *, batch_size: int, device: torch.device
) -> dict[str, Callable[[], object]]:
    """Returns functions for a training epoch and for a test pass. Each starts its DataLoader workers anew."""
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=1e-3, weight_decay=1e-4)
    num_workers = min(4, os.cpu_count() or 1)

    def epoch() -> None:
        model.train()
        total_loss = 0.0
        for images, labels in DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=num_workers):
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total_loss += loss.item()

    def test() -> None:
        model.eval()
        num_correct = 0
        with torch.no_grad():
            for images, labels in DataLoader(dataset, batch_size=EVAL_BATCH_SIZE, num_workers=num_workers):
                num_correct += (model(images.to(device)).argmax(dim=1).cpu() == labels).sum().item()

    return {"epoch": epoch, "test": test}
