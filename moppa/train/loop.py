"""The training loop. An interrupted training resumes from its checkpoint, bit for bit."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moppa.data.split import Split
from moppa.peft.collect import (
    collect_diagnostics,
    count_parameters,
    penalties,
    step_updates,
    trainable_parameters,
    trains_only_head,
)
from moppa.train.augmentation import Augmenter
from moppa.train.batches import training_batches
from moppa.train.checkpoint import Checkpoint, generator_states, set_generator_states
from moppa.train.images import train_images
from moppa.train.loggers import Logger
from moppa.train.recipe import Recipe
from moppa.train.step import StepRunner, forward_of, recorder_for, step_mode, train_step
from moppa.utils.errors import UserError
from moppa.utils.gpu import precision_name
from moppa.utils.progress import progress_bar
from moppa.utils.seeds import derive_seed, seeded
from moppa.utils.signals import Stopped, StopRequest

EpochCallback = Callable[[nn.Module, int, bool], dict[str, Tensor]]


@dataclass(kw_only=True)
class TrainingResult:
    """What a training leaves besides the weights.

    `curve` has the mean loss and the last learning rate of each epoch. `diagnostics` are what the method's modules
    report about themselves, stacked over epochs, or from after the last step alone.
    """

    curve: list[dict[str, float]]
    diagnostics: dict[str, np.ndarray]
    counts: dict[str, int]
    seconds: float


@dataclass(kw_only=True)
class TrainState:
    """Everything that decides how a training continues: what a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: Tensor
    step: int = 0
    diagnostics: list[dict[str, Tensor]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Seconds spent so far, those before an interruption included."""
        return time.perf_counter() - self.started

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as tensors and plain values."""
        return {
            "step": self.step,
            "device": self.losses.device.type,
            "trainable": {name: tensor.detach() for name, tensor in trainable_parameters(self.model).items()},
            "buffers": dict(self.model.named_buffers()),
            "diagnostics": self.diagnostics,
            "optimizer": self.optimizer.state_dict(),
            "generators": generator_states(self.losses.device),
            "losses": self.losses[: self.step].clone(),
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores weights, buffers, optimizer, losses, diagnostics and torch's generators."""
        with torch.no_grad():
            for name, parameter in trainable_parameters(self.model).items():
                parameter.copy_(state["trainable"][name])
            for name, buffer in self.model.named_buffers():
                buffer.copy_(state["buffers"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # torch leaves it where it was loaded
            if isinstance(group["lr"], Tensor):
                group["lr"] = group["lr"].to(self.losses.device)
        self.losses[: state["step"]] = state["losses"].to(self.losses.device)
        self.step, self.diagnostics = state["step"], state["diagnostics"]
        self.started -= state["seconds"]
        set_generator_states(state["generators"], self.losses.device)


def train(
    model: nn.Module,
    split: Split,
    *,
    recipe: Recipe,
    normalize: Callable[[Tensor], Tensor],
    seed: int,
    checkpoint: Checkpoint,
    logger: Logger,
    on_epoch: EpochCallback,
    step: str = "auto",
    precision: str = "auto",
    augment: Augmenter | None = None,
) -> TrainingResult:
    """Trains the parameters of `model` that require a gradient on the images of `split`.

    Args:
        model: a model whose trained parameters are all on one device.
        split: images (N, S, S, 3) uint8 or features (N, D), and labels (N,).
        recipe: optimizer and schedule.
        normalize: turns a batch of images on the device into the model's input.
        seed: decides the order of the images and what dropout and drop path draw.
        checkpoint: where the state is saved every few epochs and on interruption, and read from at the start.
        logger: gets loss, learning rate and diagnostics after each epoch.
        on_epoch: called as `on_epoch(model, epoch, is_last)` after each epoch; what it returns joins the diagnostics.
        step: `run.step`, how steps are taken.
        precision: `run.precision`, for which `to_precision` prepared the model.
        augment: augments and normalizes the images of each step, in place of `normalize`.

    Raises:
        UserError: if the loss is not finite, naming the step, or a setting does not go with the device.
        Stopped: after Ctrl-C or SIGTERM, once the state is saved.
    """
    # data, on the device once
    device = next(iter(trainable_parameters(model).values())).device
    num_images = len(split.labels)
    batch_size = min(recipe.batch_size, recipe.epoch_size(num_images))
    images = train_images(split, normalize, augment, device, batch_size=batch_size)
    steps_per_epoch = recipe.steps_per_epoch(num_images)
    num_steps = recipe.epochs * steps_per_epoch

    # model and optimizer
    mode, precision = step_mode(step, device), precision_name(precision, device.type)
    optimizer = recipe.create_optimizer(trainable_parameters(model).values(), capturable=device.type == "cuda")
    penalty, after_step = penalties(model), step_updates(model)
    state = TrainState(model=model, optimizer=optimizer, losses=torch.zeros(num_steps, device=device))

    with (
        seeded(derive_seed(seed, "noise")),
        StopRequest() as stop,
        progress_bar() as bar,
        forward_of(model, mode, batch_size=batch_size) as forward,
    ):
        # a step, from the indices of its images
        def compute(batch: Tensor, progress: Tensor) -> Tensor:
            inputs, labels = images.read(batch)
            return train_step(
                forward,
                optimizer,
                inputs,
                labels,
                partial(penalty, progress),
                partial(after_step, progress),
                precision=precision,
                label_smoothing=recipe.label_smoothing,
                clip_norm=recipe.clip_norm,
            )

        take_step = StepRunner(
            compute,
            model=model,
            optimizer=optimizer,
            device=device,
            record=recorder_for(mode, device),
            falls_back=step == "auto",
        )

        # resume
        if saved := checkpoint.read(device):
            state.load_state_dict(saved)

        # loop
        line = bar.add_task("train", total=num_steps, completed=state.step, note="")
        model.train(not trains_only_head(model))  # no drop path below a linear probe
        batches = training_batches(num_images, recipe, seed=seed, start=state.step, device=device)
        for index, batch in images.selected(batches):
            lr, progress = recipe.lr_at(index, num_steps), index / num_steps
            state.losses[index] = take_step(batch, lr=lr, progress=progress)
            state.step = index + 1
            bar.update(line, completed=state.step)
            if state.step % steps_per_epoch == 0:
                epoch, is_last = state.step // steps_per_epoch, state.step == num_steps
                values = epoch_values(state.losses, epoch, recipe)
                bar.update(line, note=f"loss {values['loss']:.4f}  lr {values['lr']:.2e}")
                diagnostics = collect_diagnostics(model, is_last=is_last) | on_epoch(model, epoch, is_last)
                state.diagnostics.append(diagnostics)
                logger.log({**values, **scalars(diagnostics)}, step=state.step)
                if epoch % checkpoint.epochs == 0 or is_last:
                    checkpoint.write(state.state_dict())
            if stop.number is not None:
                checkpoint.write(state.state_dict())
                raise Stopped(
                    f"stopped after step {state.step} of {num_steps}; the same command resumes there", stop.number
                )

    return TrainingResult(
        curve=[epoch_values(state.losses, epoch, recipe) for epoch in range(1, recipe.epochs + 1)],
        diagnostics=stacked(state.diagnostics),
        counts=count_parameters(model),
        seconds=state.seconds,
    )


def epoch_values(losses: Tensor, epoch: int, recipe: Recipe) -> dict[str, float]:
    """Returns the mean loss and the last learning rate of epoch 1, 2, ...

    Raises:
        UserError: if a loss of the epoch is not finite, naming its step.
    """
    num_steps, steps_per_epoch = len(losses), len(losses) // recipe.epochs
    first, end = (epoch - 1) * steps_per_epoch, epoch * steps_per_epoch
    of_epoch = losses[first:end]
    if not of_epoch.isfinite().all():
        step = first + int(of_epoch.isfinite().logical_not().nonzero()[0])
        raise UserError(
            f"the loss is not finite at step {step} of {num_steps} (lr {recipe.lr_at(step, num_steps):.2e}): "
            f"lower train.lr={recipe.lr} or lengthen train.warmup={recipe.warmup}"
        )
    return {"loss": float(of_epoch.double().mean()), "lr": recipe.lr_at(end - 1, num_steps)}


def stacked(diagnostics: list[dict[str, Tensor]]) -> dict[str, np.ndarray]:
    """Returns each diagnostic as one array over the epochs that have it."""
    return {
        name: torch.stack([epoch[name] for epoch in diagnostics if name in epoch]).numpy() for name in diagnostics[-1]
    }


def scalars(diagnostics: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns diagnostics as numbers for a logger: up to three values one by one, more by their mean."""
    values: dict[str, float] = {}
    for name, tensor in diagnostics.items():
        if tensor.numel() > 3:
            values[name] = float(tensor.mean())
        else:
            values |= {f"{name}/{index}": float(value) for index, value in enumerate(tensor)}
    return values
