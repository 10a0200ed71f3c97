"""Which row of a column is best, and which second, according to a paired bootstrap over test images and seeds."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from moppa.report import bootstrap
from moppa.report.load import Excluded, Predictions, ValidRecord, correctness, exclude_record
from moppa.utils.errors import UserError

SEED = 0
TEST = (
    f"the {bootstrap.LEVEL:.0%} interval of their difference excludes 0, by a paired bootstrap over test images and "
    f"seeds ({bootstrap.NUM_DRAWS:,} draws from seed {SEED}; over images alone if a cell has one seed)"
)


def seed_for(task: str, seed: int) -> int:
    """Returns the bootstrap's seed for a task: the same images are drawn for all its rows, others for other tasks."""
    return zlib.crc32(f"{seed} {task}".encode())


@dataclass(frozen=True, kw_only=True)
class SeedPredictions:
    """The correctness of one row on one task: bool (seeds, images).

    Two rows can be compared if their `images`, which are a lineage and a digest of the labels, are equal.
    """

    correct: np.ndarray
    images: str


class PairedBootstrap:
    """Compares rows on the tasks that they share, by the predictions stored beside their records.

    Args:
        records: the records of every row by task, in the order of their seeds.
        seed: of all draws.

    Attributes:
        excluded: the records whose predictions contradict them, in the order in which they were read.
    """

    def __init__(self, records: Mapping[str, Mapping[str, Sequence[ValidRecord]]], *, seed: int = SEED) -> None:
        self.records = records
        self.seed = seed
        self.excluded: list[Excluded] = []
        self.cached_predictions: dict[tuple[str, str], SeedPredictions | None] = {}
        self.cached_draws: dict[tuple[str, str, str], np.ndarray | None] = {}

    def predictions(self, row: str, task: str) -> SeedPredictions | None:
        """Returns a row's predictions on a task, or None if some are missing, are false or are of other images."""
        if (row, task) not in self.cached_predictions:
            self.cached_predictions[row, task] = self.read_predictions(self.records[row].get(task, ()))
        return self.cached_predictions[row, task]

    def read_predictions(self, records: Sequence[ValidRecord]) -> SeedPredictions | None:
        """Reads the predictions of a row's seeds on one task."""
        by_seed: list[Predictions] = []
        for record in records:
            try:
                predictions = correctness(record)
            except UserError as error:
                self.excluded.append(exclude_record(record, str(error)))
                predictions = None
            if predictions is None:
                return None
            by_seed.append(predictions)
        if not by_seed or len({predictions.labels for predictions in by_seed}) > 1:
            return None
        images = f"{records[0]['split']['lineage']} {by_seed[0].labels}"
        return SeedPredictions(correct=np.stack([predictions.correct for predictions in by_seed]), images=images)

    def difference(self, first: str, second: str, task: str) -> np.ndarray | None:
        """Returns draws of the first row's accuracy minus the second's on a task; None if they cannot be compared."""
        if (first, second, task) not in self.cached_draws:
            draws, pair = None, (self.predictions(first, task), self.predictions(second, task))
            if pair[0] is not None and pair[1] is not None and pair[0].images == pair[1].images:
                seed = seed_for(task, self.seed)
                draws = bootstrap.difference_draws(pair[0].correct, pair[1].correct, seed=seed)
            self.cached_draws[first, second, task] = draws
        return self.cached_draws[first, second, task]

    def exceeds(self, first: str, second: str, weights: Mapping[str, float]) -> bool:
        """Returns whether the first row's weighted mean over tasks is significantly above the second's."""
        total = np.zeros(bootstrap.NUM_DRAWS)
        for task, weight in weights.items():
            if (draws := self.difference(first, second, task)) is None:
                return False
            total += weight * draws
        return bool(np.quantile(total, (1 - bootstrap.LEVEL) / 2) > 0)

    def best_and_second(self, means: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, str]:
        """Returns `best` for a row that is significantly above the next one, and `second` for that one in turn.

        Args:
            means: the value in this column of every row that has one.
            weights: the weight of every task in the column's mean.
        """
        ranked = sorted(means, key=lambda row: -means[row])[:3]
        marks: dict[str, str] = {}
        for mark, (above, below) in zip(("best", "second"), pairwise(ranked), strict=False):
            if not self.exceeds(above, below, weights):
                break
            marks[above] = mark
        return marks
