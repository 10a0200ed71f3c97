"""The same training and evaluation by this harness and by an ordinary loop over JPEG files.

Both sides train LoRA of rank 8 on the qkv layer of every block, with the same number of parameters, and evaluate the
same images. Their rounds are interleaved, so that a drift of the machine's speed affects both alike.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from timm.data.constants import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from torch import nn

from moppa.backbone.efficient_blocks import SKIPPABLE, skip_unused
from moppa.backbone.preprocess import Preprocess
from moppa.bench.jpeg_loop import EVAL_BATCH_SIZE, JpegDataset, any_labels, jpeg_loops, write_jpegs
from moppa.bench.steps import DROP_PATH, Setup, with_method, with_torch_matmul
from moppa.bench.timing import interleaved, synchronize
from moppa.data.images import ImageFormat, resize
from moppa.data.split import Split
from moppa.peft.collect import count_parameters, trainable_parameters
from moppa.peft.inject import merge
from moppa.train.checkpoint import Checkpoint
from moppa.train.evaluate import Evaluator
from moppa.train.loggers import NoLogger
from moppa.train.loop import train
from moppa.train.recipe import Recipe

RANK = 8
EPOCHS, TRAIN_IMAGES, TEST_IMAGES = 100, 1000, 5400  # of the cell that is extrapolated
Functions = dict[str, Callable[[], object]]


def compare(setup: Setup, rival: str, *, num_images: int) -> dict[str, Any]:
    """Returns the seconds per image of both sides in training and test, and the extrapolated seconds of a cell.

    `rival` is `peft` (HF peft's LoRA in an ordinary loop) or `plain` (our LoRA in that loop, without optimizations).
    """
    preprocess = Preprocess(
        size=setup.image_size,
        mean=IMAGENET_INCEPTION_MEAN,
        std=IMAGENET_INCEPTION_STD,
        interpolation="bicubic",
        pool="token",
    )
    with tempfile.TemporaryDirectory() as folder:
        files = write_jpegs(Path(folder), num_images)
        prepare, ours = harness_functions(setup, files, preprocess, Path(folder))
        model = lora(setup) if rival == "plain" else peft_lora(setup)
        dataset = JpegDataset(files, preprocess)
        theirs = jpeg_loops(model, dataset, batch_size=setup.batch_size, device=setup.device)
        functions: Functions = {"prepare": prepare}
        functions |= {f"{name}, ours": function for name, function in ours.items()}
        functions |= {f"{name}, {rival}": with_torch_matmul(function) for name, function in theirs.items()}
        seconds = interleaved(functions, setup.device, setup.rounds)
    seconds_per_image = {name: value / num_images for name, value in seconds.items()}
    return {"seconds_per_image": seconds_per_image, "cell": extrapolate_cells(seconds_per_image, rival)}


def extrapolate_cells(seconds_per_image: dict[str, float], rival: str) -> dict[str, float]:
    """Returns the seconds of a cell of 100 epochs of 1000 images: ours with preparation and one evaluation.

    The rival evaluates the test set once or, as public loops do, every ten epochs.
    """

    def cell(side: str, num_evaluations: int) -> float:
        epoch, test = seconds_per_image[f"epoch, {side}"], seconds_per_image[f"test, {side}"]
        return EPOCHS * TRAIN_IMAGES * epoch + num_evaluations * TEST_IMAGES * test

    return {
        "ours": (TRAIN_IMAGES + TEST_IMAGES) * seconds_per_image["prepare"] + cell("ours", 1),
        f"{rival}, one evaluation": cell(rival, 1),
        f"{rival}, an evaluation every 10 epochs": cell(rival, EPOCHS // 10),
    }


def harness_functions(
    setup: Setup, files: Sequence[Path], preprocess: Preprocess, folder: Path
) -> tuple[Callable[[], object], Functions]:
    """Returns a function that prepares the images, once per task, and functions for an epoch and a test pass."""

    def prepare() -> np.ndarray:
        image_format = ImageFormat(preprocess.size, "bicubic")
        return np.stack([resize(file.read_bytes(), image_format, pixel_scale=1) for file in files])

    np.save(folder / "images.npy", prepare())
    images = np.load(folder / "images.npy", mmap_mode="r")
    split = Split(images=images, labels=any_labels(len(files)), digest="")
    model = skip_unused(lora(setup), SKIPPABLE)
    evaluator = Evaluator(normalize=preprocess.normalize, batch_size=EVAL_BATCH_SIZE)

    def epoch() -> float:
        checkpoint = Checkpoint(path=folder / "checkpoint.pt", epochs=1, code={})
        began, ends = time.perf_counter(), []

        def note_end(*_: Any) -> dict[str, Any]:
            synchronize(setup.device)
            ends.append(time.perf_counter())
            return {}

        train(
            model,
            split,
            recipe=recipe_for(setup),
            normalize=preprocess.normalize,
            seed=0,
            checkpoint=checkpoint,
            logger=NoLogger(),
            on_epoch=note_end,
        )
        checkpoint.remove()
        # on a GPU the first epoch records the step, which a cell does once
        return (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else time.perf_counter() - began

    def test() -> None:
        evaluator.predict(merge(copy.deepcopy(model)), images)

    return prepare, {"epoch": epoch, "test": test}


def recipe_for(setup: Setup) -> Recipe:
    """Returns the common recipe without warmup, for one epoch on a CPU and five on a GPU."""
    return Recipe(
        epochs=5 if setup.device.type == "cuda" else 1,
        batch_size=setup.batch_size,
        optimizer="adamw",
        lr=1e-3,
        weight_decay=1e-4,
        warmup=0.0,
        warmup_lr=1e-6,
        final_lr=1e-5,
        decay_1d=True,
        drop_path=DROP_PATH,
        label_smoothing=0.0,
        clip_norm=None,
        drop_last=False,
        epoch_images=None,
        normalization=None,
        augmentation=None,
        pace=None,
        pace_sigma=0.0,
        pace_from_block=0,
        recipe=None,
        published=None,
    )


def lora(setup: Setup) -> nn.Module:
    """Returns the backbone with our LoRA on q and v."""
    return with_method("lora", setup.frozen_backbone(drop_path=DROP_PATH)).to(setup.device)


def peft_lora(setup: Setup) -> nn.Module:
    """Returns the backbone with HF peft's LoRA on the fused qkv, which has as many parameters as ours on q and v."""
    from peft import LoraConfig, get_peft_model  # an optional dependency

    settings = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["qkv"], modules_to_save=["head"])
    model = get_peft_model(setup.frozen_backbone(drop_path=DROP_PATH), settings).to(setup.device)
    num_ours = sum(count_parameters(lora(setup)).values())
    num_theirs = sum(parameter.numel() for parameter in trainable_parameters(model).values())
    if num_theirs != num_ours:
        raise RuntimeError(f"{num_theirs} trained parameters against {num_ours}")
    return model
