"""How to train: the optimizer and its schedule."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from moppa.backbone.preprocess import Preprocess
from moppa.data.task import NORMALIZATIONS
from moppa.train.augmentation import Augmenter, parse_augmentation
from moppa.train.pace import Pace
from moppa.utils import validate
from moppa.utils.errors import SettingError
from moppa.utils.optimizers import SGD, AdamW


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters of a training; every field comes from `configs/train/NAME.yaml`.

    The learning rate rises linearly from `warmup_lr` to `lr` over the first `warmup` (a fraction of all epochs), then
    falls as a cosine to `final_lr`. `weight_decay` applies to every trained tensor or, without `decay_1d`, to those
    that are matrices: not to biases, gains and scales.

    `label_smoothing` is that of the cross-entropy, `clip_norm` the largest norm of all gradients together, or None.
    An epoch is `epoch_images` images, or all if that is None; the next epoch takes the next ones of a shuffled pass.
    `drop_last` leaves out the last batch of an epoch if it is smaller. `normalization` replaces the checkpoint's own:
    one of `NORMALIZATIONS`, or None. A recipe that reproduces a published row is named by `recipe`, and is
    compared with the row `published` of `results/published.csv`. Both have no effect on the training.
    `augmentation` holds the settings of an `Augmentation`, or is None. `pace` is the weight of PACE's penalty, or None
    for no PACE; `pace_sigma` and `pace_from_block` are its other settings.
    """

    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    warmup: float
    warmup_lr: float
    final_lr: float
    drop_path: float
    decay_1d: bool
    label_smoothing: float
    clip_norm: float | None
    drop_last: bool
    epoch_images: int | None
    normalization: str | None
    augmentation: Mapping[str, Any] | None
    pace: float | None
    pace_sigma: float
    pace_from_block: int
    recipe: str | None
    published: str | None

    def __post_init__(self) -> None:
        validate.integer("epochs", self.epochs, minimum=1)
        validate.integer("batch_size", self.batch_size, minimum=1)
        validate.one_of("optimizer", self.optimizer, ("adamw", "sgd"))
        validate.number("lr", self.lr, minimum=0, exclusive_minimum=True)
        validate.number("weight_decay", self.weight_decay, minimum=0)
        validate.number("warmup", self.warmup, minimum=0, maximum=1)
        validate.number("warmup_lr", self.warmup_lr, minimum=0)
        validate.number("final_lr", self.final_lr, minimum=0)
        validate.number("drop_path", self.drop_path, minimum=0, maximum=0.99)
        validate.boolean("decay_1d", self.decay_1d)
        validate.number("label_smoothing", self.label_smoothing, minimum=0, maximum=0.99)
        validate.boolean("drop_last", self.drop_last)
        if self.epoch_images is not None:
            validate.integer("epoch_images", self.epoch_images, minimum=1)
        if self.clip_norm is not None:
            validate.number("clip_norm", self.clip_norm, minimum=0, exclusive_minimum=True)
        if self.normalization is not None:
            validate.one_of("normalization", self.normalization, NORMALIZATIONS)
        if self.augmentation is not None:
            parse_augmentation(self.augmentation)
        Pace(weight=self.pace or 0.0, sigma=self.pace_sigma, from_block=self.pace_from_block)  # checks them

    @property
    def consistency(self) -> Pace | None:
        """The settings of PACE, or None without it."""
        if self.pace is None:
            return None
        return Pace(weight=self.pace, sigma=self.pace_sigma, from_block=self.pace_from_block)

    def augmenter(self, preprocess: Preprocess, *, seed: int, num_workers: int) -> Augmenter | None:
        """Returns what augments the training images of a cell with this seed; None without augmentation."""
        if self.augmentation is None:
            return None
        return Augmenter(parse_augmentation(self.augmentation), preprocess, seed=seed, num_workers=num_workers)

    def preprocess(self, preprocess: Preprocess) -> Preprocess:
        """Returns the preprocessing of a checkpoint with the normalization of this recipe."""
        if self.normalization is None:
            return preprocess
        mean, std = NORMALIZATIONS[self.normalization]
        return replace(preprocess, mean=mean, std=std)

    def epoch_size(self, num_images: int) -> int:
        """Returns the number of images in an epoch."""
        return num_images if self.epoch_images is None else self.epoch_images

    def steps_per_epoch(self, num_images: int) -> int:
        """Returns the number of batches in an epoch.

        Raises:
            SettingError: if `drop_last` leaves none.
        """
        num_images = self.epoch_size(num_images)
        if self.drop_last and num_images < self.batch_size:
            raise SettingError(
                "train.batch_size",
                f"={self.batch_size} is above the {num_images} images: lower it, or set drop_last=false",
            )
        return num_images // self.batch_size if self.drop_last else math.ceil(num_images / self.batch_size)

    def create_optimizer(self, parameters: Iterable[nn.Parameter], *, capturable: bool) -> torch.optim.Optimizer:
        """Returns a fused AdamW, or SGD with momentum 0.9.

        If it is `capturable`, its learning rate is a tensor beside the parameters, which a CUDA graph can read.
        """
        parameters = list(parameters)
        lr = torch.tensor(self.lr, device=parameters[0].device) if capturable else self.lr
        decayed = [parameter for parameter in parameters if self.decay_1d or parameter.ndim > 1]
        others = [parameter for parameter in parameters if not self.decay_1d and parameter.ndim <= 1]
        groups = [{"params": decayed}, *([{"params": others, "weight_decay": 0.0}] if others else [])]
        if self.optimizer == "adamw":
            return AdamW(groups, lr=lr, weight_decay=self.weight_decay, fused=True, capturable=capturable)
        return SGD(groups, lr=lr, weight_decay=self.weight_decay, momentum=0.9, fused=capturable)

    def lr_at(self, step: int, num_steps: int) -> float:
        """Returns the learning rate of step 0, 1, ..., num_steps - 1."""
        num_warmup = round(self.warmup * num_steps)
        if step < num_warmup:
            return self.warmup_lr + (self.lr - self.warmup_lr) * step / num_warmup
        progress = (step - num_warmup) / max(1, num_steps - num_warmup)
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * progress)) / 2
