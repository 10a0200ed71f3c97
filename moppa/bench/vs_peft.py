"""The same work by this harness and by the loop that public code has: JPEG files, a DataLoader, epoch after epoch.

Both sides train LoRA of rank 8 in every block's qkv layer with as many parameters, on the same images, and read the
same images at a test. Rounds alternate, so that a drifting machine shifts both alike.
"""

import copy
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.constants import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from moppa.backbone.efficient_blocks import SKIPPABLE, skip_unused
from moppa.backbone.preprocess import Preprocess
from moppa.bench.steps import DROP_PATH, frozen, on_torch, with_method
from moppa.bench.timing import interleaved
from moppa.data.cache import Split
from moppa.data.images import resize
from moppa.peft.collect import count_parameters, trainable_parameters
from moppa.peft.inject import merge
from moppa.train.checkpoint import Checkpoint
from moppa.train.evaluate import predict
from moppa.train.loggers import NoLogger
from moppa.train.loop import Recipe, train

JPEG_SIZE = (500, 375)  # what most photographs of VTAB's natural tasks measure
RANK, NUM_CLASSES = 8, 10
EPOCHS, TRAIN_IMAGES, TEST_IMAGES = 100, 1000, 5400  # the cell that is reckoned from the measured epoch and look


@dataclass(frozen=True, kw_only=True)
class Work:
    """One model, and how many images an epoch and a look of the measurement take."""

    configs: Path
    timm: str
    size: int
    batch: int
    num_images: int
    device: torch.device

    @property
    def recipe(self) -> Recipe:
        """One epoch of the common recipe."""
        return Recipe(
            epochs=1,
            batch_size=self.batch,
            optimizer="adamw",
            lr=1e-3,
            weight_decay=1e-4,
            warmup=0.0,
            warmup_lr=1e-6,
            final_lr=1e-5,
            drop_path=DROP_PATH,
        )

    @property
    def preprocess(self) -> Preprocess:
        """What both sides make of an image."""
        mean, std = IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
        return Preprocess(size=self.size, mean=mean, std=std, interpolation="bicubic", pool="token")


def compare(work: Work, rival: str, *, rounds: int) -> dict[str, Any]:
    """Seconds an image of both sides, training with its data and at a test, and what a whole cell would take of each.

    `rival` is `peft` (HF peft's LoRA in an ordinary loop) or `plain` (our LoRA in that loop, with nothing left out).
    """
    with tempfile.TemporaryDirectory() as folder:
        files = jpegs(Path(folder), work.num_images)
        ours, prepare = our_side(work, files, Path(folder))
        theirs = their_side(work, files, rival)
        works = {
            f"{what}, {side}": one for side, pair in (("ours", ours), (rival, theirs)) for what, one in pair.items()
        }
        seconds = interleaved({"prepare": prepare, **works}, work.device, rounds)
    found = {name: value / work.num_images for name, value in seconds.items()}
    return {"seconds_per_image": found, "cell": cells_of(found, rival)}


def cells_of(found: dict[str, float], rival: str) -> dict[str, float]:
    """Seconds of a cell of 100 epochs of 1000 images, reckoned: ours with its images prepared and one look at the test.

    The rival reads the test once, or, as the public loops do, every ten epochs.
    """

    def cell(side: str, looks: int) -> float:
        return EPOCHS * TRAIN_IMAGES * found[f"epoch, {side}"] + looks * TEST_IMAGES * found[f"test, {side}"]

    return {
        "ours": (TRAIN_IMAGES + TEST_IMAGES) * found["prepare"] + cell("ours", 1),
        f"{rival}, one look": cell(rival, 1),
        f"{rival}, a look every 10 epochs": cell(rival, EPOCHS // 10),
    }


def our_side(
    work: Work, files: Sequence[Path], folder: Path
) -> tuple[dict[str, Callable[[], object]], Callable[[], object]]:
    """Our trainer's epoch and look over stored images, and the preparation of these, which a task pays once."""

    def prepare() -> np.ndarray:
        return np.stack(
            [resize(file.read_bytes(), size=work.size, interpolation="bicubic", pixel_scale=1) for file in files]
        )

    np.save(folder / "images.npy", prepare())
    images = np.load(folder / "images.npy", mmap_mode="r")
    learned = Split(images=images, labels=labels_of(files), digest="")
    model = skip_unused(lora(work, stock(work)), SKIPPABLE)
    normalize = work.preprocess.normalize

    def epoch() -> None:
        checkpoint = Checkpoint(path=folder / "checkpoint.pt", epochs=1, code={})
        train(
            model,
            learned,
            recipe=work.recipe,
            normalize=normalize,
            seed=0,
            checkpoint=checkpoint,
            logger=NoLogger(),
            watch=lambda *_: {},
        )
        checkpoint.remove()

    def test() -> None:
        predict(merge(copy.deepcopy(model)), images, normalize=normalize, batch_size=64)

    return {"epoch": epoch, "test": test}, prepare


def their_side(work: Work, files: Sequence[Path], rival: str) -> dict[str, Callable[[], object]]:
    """An ordinary loop over JPEG files; workers start anew with every epoch and every look."""
    model = lora(work, stock(work)) if rival == "plain" else peft_lora(work)
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=1e-3, weight_decay=1e-4)
    data = JpegFiles(files, work.preprocess)
    workers = min(4, os.cpu_count() or 1)

    def epoch() -> None:
        model.train()
        total = 0.0
        for images, labels in DataLoader(data, batch_size=work.batch, shuffle=True, num_workers=workers):
            loss = F.cross_entropy(model(images.to(work.device)), labels.to(work.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()

    def test() -> None:
        model.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in DataLoader(data, batch_size=64, num_workers=workers):
                correct += (model(images.to(work.device)).argmax(dim=1).cpu() == labels).sum().item()

    return {"epoch": on_torch(epoch), "test": on_torch(test)}


def stock(work: Work) -> nn.Module:
    """timm's model."""
    return frozen(work.timm, work.size, drop_path=DROP_PATH)


def lora(work: Work, model: nn.Module) -> nn.Module:
    """Our LoRA on q and v."""
    return with_method(work.configs, "lora", model).to(work.device)


def peft_lora(work: Work) -> nn.Module:
    """HF peft's LoRA on the fused qkv, which has as many parameters as ours on q and v."""
    from peft import LoraConfig, get_peft_model  # only here, and only where it is installed

    settings = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["qkv"], modules_to_save=["head"])
    model = get_peft_model(stock(work), settings).to(work.device)
    ours = count_parameters(lora(work, stock(work)))
    num_trained = sum(parameter.numel() for parameter in trainable_parameters(model).values())
    assert num_trained == sum(ours.values()), f"{num_trained} parameters against {ours}"
    return model


class JpegFiles(Dataset):
    """Decoded, resized and normalized at every reading, by torchvision."""

    def __init__(self, files: Sequence[Path], preprocess: Preprocess) -> None:
        self.files, self.labels = files, labels_of(files)
        side = (preprocess.size, preprocess.size)
        self.transform = transforms.Compose(
            [
                transforms.Resize(side, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize(preprocess.mean, preprocess.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB")), int(self.labels[index])


def jpegs(folder: Path, count: int) -> list[Path]:
    """Seeded JPEG files of the size of a photograph: coarse colors, smoothly enlarged, with a little grain."""
    draws = np.random.default_rng(0)
    width, height = JPEG_SIZE
    made = []
    for index in range(count):
        coarse = Image.fromarray(draws.integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8))
        grain = draws.integers(-12, 13, (height, width, 3))
        smooth = np.asarray(coarse.resize(JPEG_SIZE, Image.Resampling.BICUBIC), dtype=np.int64)
        made.append(folder / f"{index}.jpg")
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(made[-1], quality=90)
    return made


def labels_of(files: Sequence[Path]) -> np.ndarray:
    """Any labels (N,)."""
    return np.arange(len(files), dtype=np.int64) % NUM_CLASSES
