"""Runs a sequence of tasks: trains each after the earlier ones, and evaluates all tasks so far after each.

A task whose step has a record is not trained again, and a training that was interrupted resumes from its checkpoint.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moppa.continual.record import load_tensors, save_tensors, step_path, write_step
from moppa.continual.strategy import Strategy
from moppa.merging.experts import head_name
from moppa.merging.merged_model import MergedModel, count_correct
from moppa.record.cell import Cell
from moppa.record.parts import Parts, instantiate_parts
from moppa.record.trained_file import trained_path
from moppa.train.checkpoint import Checkpoint
from moppa.utils.device import get_device
from moppa.utils.progress import progress_bar
from moppa.utils.signals import exit_on_sigterm

Heads = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Step:
    """A step of a sequence: the path of its record, the record, and the seconds it took now; None if it was done."""

    path: Path
    record: Mapping[str, Any]
    seconds: float | None


def run_sequence(
    cells: Sequence[Cell], config: Mapping[str, Any], make: Callable[[], Strategy], results: Path
) -> Iterator[Step]:
    """Yields the steps of a sequence, one task after another, and trains those that have no record.

    Raises:
        UserError: if a step has a record, its tensors are gone, and the next step has to be trained.
    """
    strategy, heads = make(), Heads()
    evaluate: Evaluation | None = None
    read = 0  # the step whose tensors the strategy has
    correct: Mapping[str, int] = {}  # of the last step
    for number in range(1, len(cells) + 1):
        path = step_path(results, config, cells, number)
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            correct = record["correct"]
            yield Step(path, record, None)
            continue
        started = time.perf_counter()
        if read < number - 1:  # earlier steps were done by another run
            before = step_path(results, config, cells, number - 1)
            heads, kept = load_tensors(before, json.loads(before.read_text(encoding="utf-8")))
            strategy.resume(kept, [cell.config["task"]["name"] for cell in cells[: number - 1]])
        evaluate = evaluate or Evaluation(cells)
        with exit_on_sigterm():
            outcome = train_task(cells[number - 1], strategy, heads, path)
        outcome |= evaluate(strategy, heads, number, correct if strategy.keeps_earlier else {})
        outcome["trained"] = {"sha256": save_tensors(path, heads, strategy.tensors)}
        record = write_step(path, config, cells[:number], {**outcome, "num_tasks": len(cells)})
        read, correct = number, record["correct"]
        yield Step(path, record, time.perf_counter() - started)


def train_task(cell: Cell, strategy: Strategy, heads: Heads, path: Path) -> dict[str, Any]:
    """Trains one task, after which the strategy and the heads know it, and returns facts for the record."""
    parts = instantiate_parts(cell)
    device = get_device(parts.run.device)
    checkpoint = Checkpoint(
        path=trained_path(path).with_suffix(".pt"), epochs=parts.checkpoint.epochs, code=parts.checkpoint.code
    )
    parts = replace(parts, checkpoint=checkpoint)
    attached = parts.ready(strategy.attach(parts, device), device)
    split_check = attached.data.check()
    inputs = parts.inputs(attached)
    training = parts.train(inputs, inputs.load(attached.data.train_split), on_epoch=lambda *_: {})
    model: Any = attached.model
    task = cell.config["task"]["name"]
    strategy.learn(task, model)
    head = model.get_submodule(head_name(model))
    heads[task] = {name: tensor.detach().float().cpu().clone() for name, tensor in head.state_dict().items()}
    checkpoint.remove()
    return {"split": split_check, "curve": training.curve, **training.counts}


class Evaluation:
    """The images that the tasks of a sequence are evaluated on, and the backbone to which updates are added."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.parts: list[Parts] = [instantiate_parts(cell) for cell in cells]
        self.model = MergedModel(self.parts[0], get_device(self.parts[0].run.device))
        self.data = [parts.data(self.model.preprocess) for parts in self.parts]

    def __call__(
        self, strategy: Strategy, heads: Heads, number: int, known: Mapping[str, int]
    ) -> dict[str, dict[str, int]]:
        """Returns the correct images of each of the first tasks, which may be known, and the number of its images."""
        correct, totals = {}, {}
        with progress_bar() as bar:
            line = bar.add_task("all tasks so far", total=number, note="")
            for parts, data in list(zip(self.parts, self.data, strict=True))[:number]:
                task = parts.task.name
                images = data.load(data.eval_split)
                if task in known:
                    correct[task] = known[task]
                else:
                    self.model.set_delta(strategy.delta(task))
                    features = self.model.features(images)
                    labels = torch.from_numpy(images.labels.copy())
                    correct[task] = count_correct(features, heads[task], labels)
                totals[task] = len(images.labels)
                bar.advance(line)
        return {"correct": correct, "total": totals}


def average_accuracy(record: Mapping[str, Any]) -> Fraction:
    """Returns the mean accuracy over the tasks of a step."""
    accuracies = [Fraction(record["correct"][task], record["total"][task]) for task in record["correct"]]
    return sum(accuracies, Fraction(0)) / len(accuracies)
