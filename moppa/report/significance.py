"""Which row of a column is best, and which second, beyond the noise of test images and seeds."""

import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from moppa.report import bootstrap
from moppa.report.load import Excluded, Predictions, ValidRecord, correctness, exclude_record
from moppa.utils.errors import UserError

SEED = 0
TEST = (
    f"a paired bootstrap over test images and seeds ({bootstrap.DRAWS:,} draws from seed {SEED}; over images alone where a "
    f"cell has one seed) whose {bootstrap.LEVEL:.0%} interval of the difference excludes 0"
)


class PairedBootstrap:
    """Compares rows on the tasks that they share, by the predictions kept beside their records.

    `cells` holds the records of every row by task, in the order of seeds.
    """

    def __init__(self, cells: Mapping[str, Mapping[str, Sequence[ValidRecord]]], *, seed: int = SEED) -> None:
        self.cells = cells
        self.seed = seed
        self.faults: list[Excluded] = []
        self.answers: dict[tuple[str, str], tuple[np.ndarray, str] | None] = {}
        self.draws: dict[tuple[str, str, str], np.ndarray | None] = {}

    def right(self, row: str, task: str) -> tuple[np.ndarray, str] | None:
        """Which images were right, bool (seeds, images), and what they were; None where predictions are missing."""
        if (row, task) not in self.answers:
            self.answers[row, task] = self.loaded(self.cells[row].get(task, ()))
        return self.answers[row, task]

    def loaded(self, cell: Sequence[ValidRecord]) -> tuple[np.ndarray, str] | None:
        """The answers of a cell's seeds, where all are there and answer the same images."""
        kept: list[Predictions] = []
        for one in cell:
            try:
                answers = correctness(one)
            except UserError as error:
                self.faults.append(exclude_record(one, str(error)))
                answers = None
            if answers is None:
                return None
            kept.append(answers)
        if not kept or len({answers.labels for answers in kept}) > 1:
            return None
        return np.stack([answers.right for answers in kept]), f"{cell[0]['split']['lineage']} {kept[0].labels}"

    def difference(self, first: str, second: str, task: str) -> np.ndarray | None:
        """Draws of the difference on a task; None where the two did not answer the same images of one lineage."""
        if (first, second, task) not in self.draws:
            one, other = self.right(first, task), self.right(second, task)
            seed = zlib.crc32(f"{self.seed} {task}".encode())
            self.draws[first, second, task] = (
                bootstrap.difference_draws(one[0], other[0], seed=seed)
                if one is not None and other is not None and one[1] == other[1]
                else None
            )
        return self.draws[first, second, task]

    def exceeds(self, first: str, second: str, weights: Mapping[str, float]) -> bool:
        """Whether the first row's weighted mean over tasks exceeds the second's beyond the noise."""
        total = np.zeros(bootstrap.DRAWS)
        for task, weight in weights.items():
            if (drawn := self.difference(first, second, task)) is None:
                return False
            total += weight * drawn
        return bool(np.quantile(total, (1 - bootstrap.LEVEL) / 2) > 0)

    def standing(self, means: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, str]:
        """`best` for the row above all others beyond the noise, `second` for one that is so above the rest.

        Args:
            means: a column's value of every row that has one.
            weights: what part of the column's mean each task is.
        """
        ranked = sorted(means, key=lambda row: -means[row])[:3]
        standing: dict[str, str] = {}
        for name, (above, below) in zip(("best", "second"), pairwise(ranked), strict=False):
            if not self.exceeds(above, below, weights):
                break
            standing[above] = name
        return standing
