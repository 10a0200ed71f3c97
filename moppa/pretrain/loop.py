"""The pretraining loop: AdamW with warmup and cosine decay, one view of the images per epoch, resumable."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from moppa.pretrain.images import normalize
from moppa.utils.atomic import atomic_write
from moppa.utils.bf16_matmul import bf16_products
from moppa.utils.device import forward_context
from moppa.utils.progress import progress_bar
from moppa.utils.seeds import generator_for

CPU, PRECISION = torch.device("cpu"), "bf16-mixed"
View = tuple[np.ndarray, np.ndarray | None]  # images (N, 64, 64, 3), tokens of the teacher (N, 65, D)


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """Hyperparameters of pretraining.

    Args:
        epochs: Number of passes over one view each.
        batch_size: Images per step.
        lr: Peak learning rate.
        weight_decay: Weight decay of AdamW.
        warmup: Share of the steps in which the learning rate rises.
        clip: Maximum norm of the gradient.
        seed: Decides the order of the images and the masks.
        mean: Mean per channel for normalization.
        std: Standard deviation per channel for normalization.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: float
    clip: float
    seed: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def pretrain(
    objective: nn.Module, load_view: Callable[[int], View], *, recipe: PretrainRecipe, checkpoint: Path
) -> list[float]:
    """Trains `objective` in place and returns the mean loss of each epoch.

    `load_view` returns the view of an epoch. Training resumes from `checkpoint` if that has the same recipe.
    """
    optimizer = torch.optim.AdamW(
        objective.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.95)
    )
    losses: list[float] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state.get("recipe") == asdict(recipe):
            objective.load_state_dict(state["objective"])
            optimizer.load_state_dict(state["optimizer"])
            losses = state["losses"]
    for epoch in range(len(losses), recipe.epochs):
        losses.append(train_epoch(objective, optimizer, load_view(epoch), epoch, recipe=recipe))
        state = {
            "recipe": asdict(recipe),
            "objective": objective.state_dict(),
            "optimizer": optimizer.state_dict(),
            "losses": losses,
        }
        with atomic_write(checkpoint) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
    return losses


def train_epoch(
    objective: nn.Module, optimizer: torch.optim.Optimizer, view: View, epoch: int, *, recipe: PretrainRecipe
) -> float:
    """Trains on every image once, in an order that depends on seed and epoch, and returns the mean loss."""
    images, targets = view
    order = torch.randperm(len(images), generator=generator_for(recipe.seed, "pretrain", "order", epoch))
    generator = generator_for(recipe.seed, "pretrain", "mask", epoch)
    batches = order.split(recipe.batch_size)
    objective.train()
    total = 0.0
    with progress_bar() as bar:
        task = bar.add_task(f"epoch {epoch + 1} of {recipe.epochs}", total=len(batches), note="")
        for index, batch in enumerate(batches):
            step = epoch * len(batches) + index
            lr = lr_at(step, recipe.epochs * len(batches), peak=recipe.lr, warmup=recipe.warmup)
            for group in optimizer.param_groups:
                group["lr"] = lr
            indices = batch.sort().values.numpy()
            inputs = normalize(images[indices], mean=recipe.mean, std=recipe.std)
            target = None if targets is None else torch.from_numpy(targets[indices]).float()
            loss = float(train_step(objective, optimizer, inputs, target, generator, clip=recipe.clip))
            total += loss * len(batch)
            bar.update(task, advance=1, note=f"loss {loss:.4f}")
    return total / len(images)


def train_step(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    target: Tensor | None,
    generator: torch.Generator,
    *,
    clip: float,
) -> Tensor:
    """Takes one optimizer step in bfloat16 autocast and returns the loss."""
    with forward_context(CPU, PRECISION):
        loss = objective(images, target, generator)
    optimizer.zero_grad(set_to_none=True)
    with bf16_products(CPU, PRECISION):
        loss.backward()
    nn.utils.clip_grad_norm_(objective.parameters(), clip)
    optimizer.step()
    return loss.detach()


def lr_at(step: int, num_steps: int, *, peak: float, warmup: float) -> float:
    """Returns the learning rate of a step: linear warmup over a share of the steps, then cosine decay to zero."""
    num_warmup_steps = warmup * num_steps
    if step < num_warmup_steps:
        return peak * (step + 1) / num_warmup_steps
    return peak * (1 + math.cos(math.pi * (step - num_warmup_steps) / (num_steps - num_warmup_steps))) / 2
