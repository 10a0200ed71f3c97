"""Which row of a column is marked best and which second: a test over test images and seeds, for a whole table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from moppa.report import estimate
from moppa.report.budget import Budget
from moppa.report.estimate import Correctness, Estimate
from moppa.report.load import Excluded, Predictions, ValidRecord, correctness, exclude_record
from moppa.utils.errors import UserError

MIN_SEEDS = 3  # of every row of a column with marks
ALPHA = 0.05  # of a whole table


Cell = tuple[int, Budget]  # the number of seeds of a row on a task, and its budget


@dataclass(frozen=True, kw_only=True)
class RowPredictions:
    """The predictions of one row on one task. Two rows can be compared if their `images` are equal.

    `images` are a lineage and a digest of the labels.
    """

    correct: Correctness
    images: str


class Comparer:
    """Compares rows on the tasks that they share, by the predictions stored beside their records.

    Args:
        records: the records of every row by task, in the order of their seeds.

    Attributes:
        excluded: the records whose predictions contradict them, in the order in which they were read.
    """

    def __init__(self, records: Mapping[str, Mapping[str, Sequence[ValidRecord]]]) -> None:
        self.records = records
        self.excluded: list[Excluded] = []
        self.cached_predictions: dict[tuple[str, str], RowPredictions | None] = {}
        self.cached_differences: dict[tuple[str, str, str], Estimate | None] = {}

    def predictions(self, row: str, task: str) -> RowPredictions | None:
        """Returns a row's predictions on a task, or None if some are missing, are false or are of other images."""
        if (row, task) not in self.cached_predictions:
            self.cached_predictions[row, task] = self.read_predictions(self.records[row].get(task, ()))
        return self.cached_predictions[row, task]

    def read_predictions(self, records: Sequence[ValidRecord]) -> RowPredictions | None:
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
        correct = Correctness.from_seeds([predictions.correct for predictions in by_seed])
        return RowPredictions(correct=correct, images=images)

    def difference(self, first: str, second: str, task: str) -> Estimate | None:
        """Returns the first row's accuracy minus the second's on a task; None if they cannot be compared."""
        if (first, second, task) not in self.cached_differences:
            difference, pair = None, (self.predictions(first, task), self.predictions(second, task))
            if pair[0] is not None and pair[1] is not None and pair[0].images == pair[1].images:
                difference = estimate.estimate_difference(pair[0].correct, pair[1].correct)
            self.cached_differences[first, second, task] = difference
        return self.cached_differences[first, second, task]

    def p_value(self, first: str, second: str, weights: Mapping[str, Fraction]) -> float:
        """Returns the p-value of the hypothesis that the weighted means of two rows are equal; 1 if unknown."""
        terms = []
        for task, weight in weights.items():
            if (difference := self.difference(first, second, task)) is None:
                return 1.0
            terms.append((weight, difference))
        return estimate.weighted_sum(terms).p_value


def is_testable(cells: Iterable[Cell]) -> bool:
    """Returns whether cells of one task may be told apart by a mark."""
    num_seeds, budgets = zip(*cells, strict=True)
    return min(num_seeds) >= MIN_SEEDS and len(set(budgets)) == 1


def find_marks(
    cells: Mapping[str, Mapping[str, Cell]],
    means: Mapping[str, Mapping[str, Fraction]],
    weights: Mapping[str, Mapping[str, Fraction]],
    comparer: Comparer,
) -> dict[tuple[str, str], str]:
    """Returns the marks `best` and `second` of a table, by row and column.

    A mark claims that a row exceeds all rows below it in the column. Its p-value is the largest of all these pairs, and
    Holm's method corrects for the columns of the table. A column has none if one of its cells has fewer than
    three seeds or if its rows had unequal budgets.

    Args:
        cells: for each row that may be marked, its cells by task.
        means: for each column, the value of every row that has one.
        weights: for each column, the weight of every task in its mean.
        comparer: of all rows.
    """
    claims: list[tuple[str, str, str, float]] = []
    for column, by_row in means.items():
        ranked = sorted(by_row, key=lambda name: -by_row[name])
        if len(ranked) < 2 or not all(is_testable([cells[name][task] for name in ranked]) for task in weights[column]):
            continue
        p_value = 0.0
        for position, mark in enumerate(("best", "second")[: len(ranked) - 1]):
            below = ranked[position + 1 :]
            pairs = (comparer.p_value(ranked[position], other, weights[column]) for other in below)
            p_value = max(p_value, *pairs)
            claims.append((ranked[position], column, mark, p_value))
    adjusted = estimate.holm([p_value for *_, p_value in claims], [column for _, column, *_ in claims])
    return {(row, column): mark for (row, column, mark, _), p in zip(claims, adjusted, strict=True) if p < ALPHA}
