"""The loop: an optimizer over what is trainable, a schedule per step, checkpoints that resume to the same bytes."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moppa.backbone.model import Preprocess
from moppa.data.cache import Split
from moppa.peft.collect import collect_diagnostics, count_parameters, penalties, trainable_parameters, trains_only_head
from moppa.train.checkpoint import Checkpoint, generator_states, restore
from moppa.train.loggers import Logger
from moppa.utils import validate
from moppa.utils.device import autocast
from moppa.utils.errors import UserError
from moppa.utils.progress import progress_bar
from moppa.utils.seeds import derive_seed, generator_for, seeded
from moppa.utils.signals import Stopped, StopRequest

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
MANY_CELLS = 4096


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train; every field comes from `configs/train/NAME.yaml`. Rates are absolute.

    The rate rises linearly from `warmup_lr` to `lr` over the first `warmup` share of the epochs, then falls as a
    cosine to `final_lr`. `weight_decay` acts on everything that is trained; adamw decouples it from the gradient.
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

    def __post_init__(self) -> None:
        validate.integer("train.epochs", self.epochs, minimum=1)
        validate.integer("train.batch_size", self.batch_size, minimum=1)
        validate.one_of("train.optimizer", self.optimizer, ("adamw", "sgd"))
        validate.number("train.lr", self.lr, minimum=0, exclusive_minimum=True)
        validate.number("train.weight_decay", self.weight_decay, minimum=0)
        validate.number("train.warmup", self.warmup, minimum=0, maximum=1)
        validate.number("train.warmup_lr", self.warmup_lr, minimum=0)
        validate.number("train.final_lr", self.final_lr, minimum=0)
        validate.number("train.drop_path", self.drop_path, minimum=0, maximum=0.99)

    def optimizer_of(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW, in one pass over all tensors, or SGD with momentum 0.9."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        return torch.optim.SGD(parameters, lr=self.lr, weight_decay=self.weight_decay, momentum=0.9)

    def rate(self, step: int, num_steps: int) -> float:
        """The learning rate of step 0, 1, ... num_steps - 1."""
        num_warmup = round(self.warmup * num_steps)
        if step < num_warmup:
            return self.warmup_lr + (self.lr - self.warmup_lr) * step / num_warmup
        share = (step - num_warmup) / max(1, num_steps - num_warmup)
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * share)) / 2


@dataclass(kw_only=True)
class TrainingResult:
    """What is left of a training besides the weights: mean loss and last rate by epoch, sizes and seconds.

    `observed` is what the method's modules told of themselves: by epoch, or once after the last step.
    """

    curve: list[dict[str, float]]
    observed: dict[str, np.ndarray]
    counts: dict[str, int]
    seconds: float


def train(
    model: nn.Module,
    learned: Split,
    *,
    recipe: Recipe,
    normalize: Callable[[Tensor], Tensor],
    seed: int,
    checkpoint: Checkpoint,
    logger: Logger,
    watch: Callable[[nn.Module, int, bool], dict[str, Tensor]],
    compiled: str | None = None,
) -> TrainingResult:
    """Trains what requires a gradient on the images of a split, which are moved to the model's device once.

    `normalize` makes the model's input of a batch of them. `compiled` is the mode in which torch.compile makes the
    step's kernels, or None for the plain step.
    What `watch(model, epoch, is_last)` gives after each epoch is kept beside what the modules tell of themselves.

    Raises:
        UserError: where the loss is not finite, naming the step, and for a mode that is none.
        Stopped: after Ctrl-C or SIGTERM, with the state saved; the same call resumes to the same bytes.
    """
    parameters = trainable_parameters(model)
    forward = compile_model(model, compiled)
    device = next(iter(parameters.values())).device
    images = torch.from_numpy(np.array(learned.images)).to(device)
    labels = torch.from_numpy(np.array(learned.labels)).to(device)
    optimizer = recipe.optimizer_of(parameters.values())
    per_epoch = math.ceil(len(images) / recipe.batch_size)
    num_steps = recipe.epochs * per_epoch
    losses = torch.zeros(num_steps, device=device)
    penalty = penalties(model)
    start, spent, began = 0, 0.0, time.perf_counter()
    observed: list[dict[str, Tensor]] = []

    def save(step: int) -> None:
        checkpoint.write(
            {
                "step": step,
                "trainable": {name: parameter.detach() for name, parameter in parameters.items()},
                "buffers": dict(model.named_buffers()),
                "observed": observed,
                "optimizer": optimizer.state_dict(),
                "generators": generator_states(device),
                "losses": losses[:step].clone(),
                "seconds": spent + time.perf_counter() - began,
            }
        )

    with seeded(derive_seed(seed, "noise")), StopRequest() as stop, progress_bar() as bar:
        if state := checkpoint.read():
            start, spent = state["step"], state["seconds"]
            restore(state, model, optimizer, losses)
            observed = state["observed"]
        line = bar.add_task("train", total=num_steps, completed=start, note="")
        model.train(not trains_only_head(model))  # no stochastic depth under a linear probe
        for step, batch in batches(len(images), recipe, seed=seed, start=start, device=device):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step, num_steps)
            shown, wanted = normalize(images[batch]), labels[batch]
            losses[step] = train_step(forward, optimizer, shown, wanted, partial(penalty, step / num_steps))
            bar.update(line, completed=step + 1)
            if (step + 1) % per_epoch == 0:
                epoch = end_of_epoch(losses[step + 1 - per_epoch : step + 1], recipe, step, num_steps)
                bar.update(line, note=f"loss {epoch['loss']:.4f}  rate {epoch['rate']:.2e}")
                is_last = step + 1 == num_steps
                observed.append(
                    {**collect_diagnostics(model, is_last=is_last), **watch(model, (step + 1) // per_epoch, is_last)}
                )
                logger.log({**epoch, **scalars(observed[-1])}, step=step + 1)
                if (step + 1) // per_epoch % checkpoint.epochs == 0 or is_last:
                    save(step + 1)
            if stop.number is not None:
                save(step + 1)
                raise Stopped(
                    f"stopped after step {step + 1} of {num_steps}; the same command goes on from there", stop.number
                )

    told = {name: [one[name] for one in observed if name in one] for name in observed[-1]}
    ends = range(per_epoch, num_steps + 1, per_epoch)
    return TrainingResult(
        observed={name: torch.stack(values).numpy() for name, values in told.items()},
        curve=[end_of_epoch(losses[end - per_epoch : end], recipe, end - 1, num_steps) for end in ends],
        counts=count_parameters(model),
        seconds=spent + time.perf_counter() - began,
    )


def batches(
    count: int, recipe: Recipe, *, seed: int, start: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[int, Tensor]]:
    """Yields (step, indices) from `start` on: every epoch all images once, in an order that seed and epoch decide.

    An epoch's order goes to the device at once, so that no step waits for its own.
    """
    per_epoch = math.ceil(count / recipe.batch_size)
    for epoch in range(start // per_epoch, recipe.epochs):
        order = torch.randperm(count, generator=generator_for(seed, "order", epoch))
        for index, batch in enumerate(order.to(device).split(recipe.batch_size)):
            step = epoch * per_epoch + index
            if step >= start:
                yield step, batch


def iterate_batches(
    learned: Split, batch_size: int, preprocess: Preprocess, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (images (B, 3, S, S), labels (B,)) of a split in order, for a method that looks before it trains."""
    for start in range(0, len(learned.labels), batch_size):
        images = torch.from_numpy(np.array(learned.images[start : start + batch_size])).to(device)
        yield (
            preprocess.normalize(images),
            torch.from_numpy(np.array(learned.labels[start : start + batch_size])).to(device),
        )


def compile_model(model: nn.Module, mode: str | None) -> Callable[[Tensor], Tensor]:
    """The model's forward as torch.compile makes it in this mode, anew for each shape of a batch; None: as it is.

    The cells of a process that share backbone and method share it; those of other processes, its kernels on disk.
    """
    if mode is None:
        return model
    validate.one_of("run.compile", mode, COMPILE_MODES)
    for limit in ("recompile_limit", "accumulated_recompile_limit"):  # beyond them torch silently compiles no more
        setattr(torch._dynamo.config, limit, MANY_CELLS)
    return torch.compile(model, mode=mode, dynamic=False)


def train_step(
    forward: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    penalty: Callable[[], Tensor | float],
) -> Tensor:
    """One step of the optimizer; gives the loss, penalties included, still on the device."""
    with autocast(images.device):
        loss = F.cross_entropy(forward(images), labels) + penalty()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def end_of_epoch(losses: Tensor, recipe: Recipe, step: int, num_steps: int) -> dict[str, float]:
    """The epoch's mean loss and last rate; a loss that is not finite ends the cell with the step where it began."""
    if not losses.isfinite().all():
        bad = step + 1 - len(losses) + int(losses.isfinite().logical_not().nonzero()[0])
        raise UserError(
            f"the loss is not finite at step {bad} of {num_steps} (rate {recipe.rate(bad, num_steps):.2e}): "
            f"lower train.lr={recipe.lr} or lengthen train.warmup={recipe.warmup}"
        )
    return {"loss": float(losses.double().mean()), "rate": recipe.rate(step, num_steps)}


def scalars(observed: Mapping[str, Tensor]) -> dict[str, float]:
    """What a logger can draw of it: few values one by one, many by their mean."""
    found: dict[str, float] = {}
    for name, tensor in observed.items():
        if tensor.numel() > 3:
            found[name] = float(tensor.mean())
        else:
            found |= {f"{name}/{index}": float(value) for index, value in enumerate(tensor)}
    return found
