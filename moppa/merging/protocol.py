"""The protocol of a merge: the scale is chosen on val200, then the test set is evaluated once.

The experts that choose are those of protocol=tune, trained on train800; those of protocol=final count.
Every task keeps its own head: that of its expert, or one that is fitted again on features of the merged backbone.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from moppa.merging.merged_model import MergedModel, count_correct, predict
from moppa.merging.stage import Stage
from moppa.merging.training_images import TrainingImages
from moppa.record.merge_schema import ARRAYS, best_scale, mean_normalized
from moppa.utils.errors import UserError
from moppa.utils.logistic import fit_logistic
from moppa.utils.progress import progress_bar
from moppa.utils.seeds import derive_seed

Merge = Callable[..., dict[str, Tensor]]
Counts = dict[str, int]  # correct predictions by task


@dataclass(frozen=True)
class Search:
    """Every scale that was tried, with its average normalized accuracy on val200 and the correct images by task."""

    scales: list[float]
    normalized: list[float]
    correct: list[Counts]

    @property
    def best(self) -> float:
        """The scale with the highest average, the first one of equals."""
        return best_scale(self.scales, self.normalized)


@dataclass(frozen=True)
class Outcome:
    """What a merge gives: the search, and the predicted test classes by task with both kinds of heads, with the labels.

    The arrays of a task are those of `moppa.record.merge_schema.ARRAYS`.
    """

    search: Search
    predictions: Mapping[str, Mapping[str, np.ndarray]]

    def num_correct(self, task: str, head: str) -> int:
        """Returns how many test images of a task are classified correctly."""
        return int((self.predictions[task][head] == self.predictions[task]["label"]).sum())


def run_protocol(
    merge: Merge,
    tune: Stage,
    final: Stage,
    model: MergedModel,
    *,
    scales: Sequence[float],
    head_l2: float,
    seed: int,
    title: str,
) -> Outcome:
    """Returns the outcome of an algorithm. Afterwards the model holds the merged delta of the final experts.

    `merge` is called with the deltas of the experts, and with the seed and the training images if it takes them. A
    progress bar shows `title` and counts the splits that pass through the model.
    """
    with progress_bar() as bar:
        line = bar.add_task(title, total=(len(scales) + 2) * len(final.tasks), note="val200")
        search = search_scale(merge, tune, model, scales=scales, seed=seed, advance=partial(bar.advance, line))
        model.set_delta(call(merge, final, model, seed=seed), search.best)
        heads = []
        bar.update(line, note="heads")
        for task in final.tasks:
            heads.append(fit_head(model, task, head_l2))
            bar.advance(line)

        # the last step: the test set, once
        predictions = {}
        bar.update(line, note="test")
        for task, head in zip(final.tasks, heads, strict=True):
            split, labels = task.load(task.data.eval_split)
            features = model.features(split)
            arrays = (predict(features, task.expert.head), predict(features, head), labels)
            predictions[task.name] = {
                name: array.numpy().astype(np.int16) for name, array in zip(ARRAYS, arrays, strict=True)
            }
            bar.advance(line)
    return Outcome(search=search, predictions=predictions)


def search_scale(
    merge: Merge,
    stage: Stage,
    model: MergedModel,
    *,
    scales: Sequence[float],
    seed: int,
    advance: Callable[[], None],
) -> Search:
    """Returns the accuracies of every scale on val200, and calls `advance` after each split."""
    delta = call(merge, stage, model, seed=seed)
    if any(not tensor.isfinite().all() for tensor in delta.values()):
        raise UserError("the merged delta is not finite: lower the learning rate of the algorithm, or of the experts")
    loaded = [(task, *task.load(task.data.eval_split)) for task in stage.tasks]
    experts = {task.name: task.expert.record for task in stage.tasks}
    normalized, correct = [], []
    for scale in scales:
        model.set_delta(delta, scale)
        counts = {}
        for task, split, labels in loaded:
            counts[task.name] = count_correct(model.features(split), task.expert.head, labels)
            advance()
        normalized.append(mean_normalized(counts, experts))
        correct.append(counts)
    return Search(scales=list(scales), normalized=normalized, correct=correct)


def call(merge: Merge, stage: Stage, model: MergedModel, *, seed: int) -> dict[str, Tensor]:
    """Returns the merged delta of the experts."""
    supported = inspect.signature(merge).parameters
    arguments: dict[str, Any] = {"seed": seed, "training": TrainingImages(stage, model)}
    return merge(stage.deltas, **{name: value for name, value in arguments.items() if name in supported})


def fit_head(model: MergedModel, task: Any, l2: float) -> Mapping[str, Tensor]:
    """Returns a linear head for the features of a task's training images, as the linear probe fits it."""
    split, labels = task.load(task.data.train_split)
    solution = fit_logistic(model.features(split), labels, num_classes=len(task.expert.head["bias"]), l2=l2)
    if not solution.has_converged:
        raise UserError(f"the head of {task.name} has not converged: raise head_l2={l2}")
    return {"weight": solution.weight.float(), "bias": solution.bias.float()}


def draw_seed(seed: int, draw: int) -> int:
    """Returns the seed of one draw of masks or orders."""
    return derive_seed(seed, "merge", draw)
