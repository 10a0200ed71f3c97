"""Augmentation of training images by timm's transforms. Seed, step and image decide what is drawn for an image."""

import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from moppa.backbone.preprocess import Preprocess
from moppa.utils import validate
from moppa.utils.errors import SettingError
from moppa.utils.seeds import derive_seed

COUNT, AMOUNT, SHARE = r"[1-9]\d*", r"\d+(\.\d+)?", r"(0(\.\d+)?|1(\.0*)?)"
MAGNITUDE = rf"m\d+|mstd{AMOUNT}"
# What timm's `auto_augment` may be: a policy, and after each dash one of its settings.
POLICIES = {
    "rand": rf"{MAGNITUDE}|n{COUNT}|p{SHARE}|mmax{COUNT}|inc[01]|t(weights|3a|3aw)",
    "augmix": rf"{MAGNITUDE}|w{COUNT}|d{COUNT}|a{COUNT}|b[01]",
    "(v0|v0r|original|originalr|3a)": rf"mstd{AMOUNT}",
}
INTERPOLATIONS = ("random", "bilinear", "bicubic")
ERASE_MODES = ("const", "rand", "pixel")
MOST_WORKERS = 8
LARGEST_SEED = 1 << 32  # of numpy's global generator


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The arguments of timm's training transforms, by timm's names; every field comes from `configs/augmentation/`.

    A crop has a share of the image's area between the two of `scale` and an aspect ratio between the two of `ratio`,
    and is resized by `interpolation`. `hflip`, `vflip` and `re_prob` are probabilities. `auto_augment` is a policy in
    timm's notation, `color_jitter` a factor; each may be None. Random erasing fills up to `re_count` rectangles.
    """

    name: str
    scale: Sequence[float]
    ratio: Sequence[float]
    interpolation: str
    hflip: float
    vflip: float
    color_jitter: float | None
    auto_augment: str | None
    re_prob: float
    re_mode: str
    re_count: int

    def __post_init__(self) -> None:
        validate.text("name", self.name)
        check_range("scale", self.scale, maximum=1.0)
        check_range("ratio", self.ratio, maximum=100.0)
        validate.one_of("interpolation", self.interpolation, INTERPOLATIONS)
        for name in ("hflip", "vflip", "re_prob"):
            validate.number(name, getattr(self, name), minimum=0, maximum=1)
        validate.one_of("re_mode", self.re_mode, ERASE_MODES)
        validate.integer("re_count", self.re_count, minimum=1)
        if self.auto_augment is not None:
            check_policy(self.auto_augment)
        if self.color_jitter is not None:
            validate.number("color_jitter", self.color_jitter, minimum=0)
            if self.auto_augment is not None and "3a" not in self.auto_augment:
                raise SettingError(
                    "color_jitter", f"={self.color_jitter}: timm omits it with auto_augment; set it to null"
                )

    def transform(self, preprocess: Preprocess) -> Callable[[Image.Image], UInt8[Tensor, "3 height width"]]:
        """Returns timm's transform of a picture, without normalization and random erasing."""
        from timm.data.transforms_factory import transforms_imagenet_train

        return transforms_imagenet_train(
            preprocess.size,
            scale=(self.scale[0], self.scale[1]),
            ratio=(self.ratio[0], self.ratio[1]),
            interpolation=self.interpolation,
            hflip=self.hflip,
            vflip=self.vflip,
            color_jitter=self.color_jitter,  # type: ignore[arg-type]  # timm takes None
            auto_augment=self.auto_augment,
            mean=preprocess.mean,
            use_prefetcher=True,
        )

    def erase(self) -> Callable[[Tensor], Tensor]:
        """Returns timm's random erasing of a normalized image, in place."""
        from timm.data.random_erasing import RandomErasing

        return RandomErasing(self.re_prob, mode=self.re_mode, max_count=self.re_count, device="cpu")


class Augmenter:
    """Augments and normalizes images with the seed of a cell; a training starts `num_workers` processes for it."""

    def __init__(self, augmentation: Augmentation, preprocess: Preprocess, *, seed: int, num_workers: int) -> None:
        self.normalize, self.seed, self.num_workers = preprocess.normalize, seed, num_workers
        self.transform, self.erase = augmentation.transform(preprocess), augmentation.erase()

    def __call__(
        self, image: UInt8[np.ndarray, "height width 3"], *, step: int, index: int
    ) -> Float[Tensor, "3 height width"]:
        """Returns image `index` of the training split as the model sees it in a step."""
        with seeded_generators(derive_seed(self.seed, "augment", step, index)):
            pixels = self.transform(Image.fromarray(image))
            return self.erase(self.normalize(pixels.permute(1, 2, 0)[None])[0])


@contextmanager
def seeded_generators(seed: int) -> Iterator[None]:
    """Seeds the global generators of Python, numpy and torch (CPU), which timm draws from, and restores them."""
    python, numpy, default = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed % LARGEST_SEED)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.default_generator.set_state(default)


def worker_count(value: object, device_type: str) -> int:
    """Returns the number of processes that augment images, for `run.augment_workers`; with 0 the training does it.

    auto is 0 on a CPU, where the training itself needs the processor, and up to 8 for a GPU.

    Raises:
        SettingError: if it is neither auto nor an integer of at least 0.
    """
    if value != "auto":
        return validate.integer("run.augment_workers", value, minimum=0)
    return 0 if device_type == "cpu" else min(MOST_WORKERS, os.cpu_count() or 1)


def parse_augmentation(settings: object) -> Augmentation:
    """Returns the augmentation that `train.augmentation` describes.

    Raises:
        SettingError: if a setting is unknown, missing or has a bad value.
    """
    names = [field.name for field in fields(Augmentation)]
    if not isinstance(settings, Mapping):
        raise SettingError("augmentation", f"={settings!r}: choose +augmentation=NAME, a YAML of configs/augmentation")
    values: dict[str, Any] = {str(name): value for name, value in settings.items()}
    if unknown := [name for name in values if name not in names]:
        raise SettingError(f"augmentation.{unknown[0]}", f" does not exist; there are {', '.join(names)}")
    if missing := [name for name in names if name not in values]:
        raise SettingError("augmentation", f" lacks {', '.join(missing)}: start from +augmentation=NAME")
    try:
        return Augmentation(**values)
    except SettingError as error:
        raise error.inside("augmentation") from error


def check_range(setting: str, values: object, *, maximum: float) -> None:
    """Raises `SettingError` unless `values` are two numbers above 0, the smaller one first."""
    items = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    numbers = [item for item in items if isinstance(item, int | float) and not isinstance(item, bool)]
    if not len(items) == len(numbers) == 2 or not 0 < numbers[0] <= numbers[1] <= maximum:
        raise SettingError(
            setting, f"={values!r}: it must be [smallest, largest], numbers above 0 and at most {maximum:g}"
        )


def check_policy(text: object) -> None:
    """Raises `SettingError` unless a text is an `auto_augment` of timm, which would end with a traceback."""
    policies = "|".join(rf"{policy}(-({settings}))*" for policy, settings in POLICIES.items())
    if not isinstance(text, str) or not re.fullmatch(policies, text):
        raise SettingError(
            "auto_augment",
            f"={text!r}: it must be timm's notation, as rand-m9-mstd0.5-inc1, augmix-m3-w3, original-mstd0.5, v0 or 3a",
        )
