"""The pretraining loop: epochs over views of the images, AdamW, a cosine, and a checkpoint to go on from."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from moppa.pretrain.images import as_input
from moppa.pretrain.objectives import lr_at
from moppa.utils.atomic import atomic_write
from moppa.utils.progress import progress_bar
from moppa.utils.seeds import generator_for

View = tuple[np.ndarray, np.ndarray | None]  # images (N, 64, 64, 3), the teacher's tokens (N, 65, D)


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """How to pretrain: an epoch passes once over one view, and epoch e sees view e modulo their number."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: float
    clip: float
    seed: int


def pretrain(
    objective: nn.Module,
    view_of: Callable[[int], View],
    *,
    how: Pretraining,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    checkpoint: Path,
) -> list[float]:
    """Trains `objective` in place, going on from `checkpoint` where that is of the same settings; the loss by epoch."""
    optimizer = torch.optim.AdamW(objective.parameters(), lr=how.lr, weight_decay=how.weight_decay, betas=(0.9, 0.95))
    losses: list[float] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["how"] == asdict(how):
            objective.load_state_dict(state["objective"])
            optimizer.load_state_dict(state["optimizer"])
            losses = state["losses"]
    for epoch in range(len(losses), how.epochs):
        images, targets = view_of(epoch)
        losses.append(one_epoch(objective, optimizer, images, targets, epoch, how=how, mean=mean, std=std))
        with atomic_write(checkpoint) as temporary:
            torch.save(
                {
                    "how": asdict(how),
                    "objective": objective.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "losses": losses,
                },
                temporary,
            )
    return losses


def one_epoch(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: np.ndarray,
    targets: np.ndarray | None,
    epoch: int,
    *,
    how: Pretraining,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> float:
    """Every image once, in an order that seed and epoch decide; gives the mean loss."""
    order = torch.randperm(len(images), generator=generator_for(how.seed, "pretrain", "order", epoch))
    draws = generator_for(how.seed, "pretrain", "mask", epoch)
    batches = order.split(how.batch_size)
    objective.train()
    total = 0.0
    with progress_bar() as bar:
        line = bar.add_task(f"epoch {epoch + 1} of {how.epochs}", total=len(batches), note="")
        for index, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = lr_at(
                    epoch * len(batches) + index, how.epochs * len(batches), peak=how.lr, warmup=how.warmup
                )
            chosen = batch.sort().values.numpy()
            target = None if targets is None else torch.from_numpy(targets[chosen]).float()
            loss = step(
                objective, optimizer, as_input(images[chosen], mean=mean, std=std), target, draws, clip=how.clip
            )
            total += float(loss) * len(batch)
            bar.update(line, advance=1, note=f"loss {float(loss):.4f}")
    return total / len(images)


def step(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    target: Tensor | None,
    draws: torch.Generator,
    *,
    clip: float,
) -> Tensor:
    """One step in bfloat16 autocast; gives the loss."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(images, target, draws)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(objective.parameters(), clip)
    optimizer.step()
    return loss.detach()
