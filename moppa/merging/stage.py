"""The experts of one protocol with the images of their tasks: those of tune choose the scale, those of final count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from moppa.data.split import Split
from moppa.data.task_data import TaskData
from moppa.merging.experts import Expert, load_expert
from moppa.merging.merged_model import MergedModel
from moppa.record.cell import Cell
from moppa.record.parts import Parts, instantiate_parts
from moppa.utils.atomic import sha256_file


@dataclass(frozen=True)
class TaskExpert:
    """One task: its expert, and its images, of which only the two splits of the expert's protocol can be loaded."""

    cell: Cell
    parts: Parts
    expert: Expert
    data: TaskData

    @property
    def name(self) -> str:
        return self.cell.config["task"]["name"]

    def load(self, split: str) -> tuple[Split, Tensor]:
        """Returns a split, and its labels."""
        images = self.data.load(split)
        return images, torch.from_numpy(images.labels.copy())

    def describe(self) -> dict[str, object]:
        """Returns what the record of a merge says about the expert."""
        record = self.expert.record
        return {
            "key": self.cell.key,
            "record_sha256": sha256_file(self.cell.record),
            "trained_sha256": record["trained"]["sha256"],
            "correct": record["correct"],
            "total": record["total"],
        }


@dataclass(frozen=True)
class Stage:
    """The experts of one protocol, by task in the order of the suite's columns."""

    tasks: Sequence[TaskExpert]

    @property
    def deltas(self) -> list[Mapping]:
        """The deltas of the experts."""
        return [task.expert.delta for task in self.tasks]

    @cached_property
    def parts(self) -> Parts:
        """The objects that all cells share: backbone, recipe, and how they are run."""
        return self.tasks[0].parts


def load_stage(cells: Sequence[Cell], model: MergedModel, folder: Path) -> Stage:
    """Returns the experts of cells. Their deltas are stored below `folder`.

    Raises:
        UserError: if trained tensors were not kept, or the method is not a weight.
    """
    tasks = []
    for cell in cells:
        parts = instantiate_parts(cell)
        name = f"{cell.config['task']['name']}-{cell.config['protocol']['name']}"
        expert = load_expert(cell.record, folder / name, weights=cell.config["backbone"]["weights"])
        tasks.append(TaskExpert(cell=cell, parts=parts, expert=expert, data=parts.data(model.preprocess)))
    return Stage(tasks=tasks)
