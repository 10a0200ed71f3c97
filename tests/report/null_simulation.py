"""Simulates tables whose methods are equally good, and counts those with a mark: python -m tests.report.null_simulation

An image is predicted correctly if the sum of four normal variables is positive: the image (variance 0.5), the image for
this method (0.2), this run on this image (0.3), and the seed, whose deviation is given in points of accuracy.
"""

from fractions import Fraction
from statistics import NormalDist

import numpy as np

from moppa.report.aggregate import column_weights
from moppa.report.budget import Budget
from moppa.report.estimate import Correctness
from moppa.report.significance import Comparer, RowPredictions, find_marks

NUM_IMAGES = 2000
DEVIATIONS = (0, 0.5, 1.5, 3)
GROUPS = {"natural": ["a", "b"], "specialized": ["c", "d"], "structured": ["e", "f", "g", "h"]}
ACCURACIES = {"a": 95, "b": 20, "c": 50, "d": 75, "e": 50, "f": 30, "g": 40, "h": 65}
ONE_TASK = {"natural": ["d"]}
TIE_OF_TWO = (0, 0, -10, -10, -10, -10)  # points; the two best of six are equal


class SimulatedComparer(Comparer):
    """Compares simulated rows, which have no files."""

    def __init__(self, simulated):
        super().__init__({})
        self.simulated = simulated

    def predictions(self, row, task):
        return RowPredictions(correct=self.simulated[row, task], images=task)


def simulate_task(generator, accuracies, deviation, num_seeds):
    """Returns the correct predictions of methods with some expected accuracies in percent."""
    shared = generator.normal(0, 0.5**0.5, NUM_IMAGES)
    rows = []
    for accuracy in accuracies:
        normal = NormalDist()
        threshold = normal.inv_cdf(accuracy / 100)
        of_seed = generator.normal(0, deviation / 100 / normal.pdf(threshold), (num_seeds, 1))
        own = generator.normal(0, 0.2**0.5, NUM_IMAGES)
        run = generator.normal(0, 0.3**0.5, (num_seeds, NUM_IMAGES))
        rows.append(Correctness.from_seeds(list(shared + own + run + of_seed + threshold > 0)))
    return rows


def simulate_marks(generator, groups, offsets, deviation, num_seeds):
    """Returns the marks of a table of methods whose accuracies differ by offsets in points."""
    names = [f"method {index}" for index in range(len(offsets))]
    tasks = [task for members in groups.values() for task in members]
    simulated = {}
    for task in tasks:
        accuracies = [ACCURACIES[task] + offset for offset in offsets]
        rows = simulate_task(generator, accuracies, deviation, num_seeds)
        simulated |= {(name, task): row for name, row in zip(names, rows, strict=True)}
    weights = column_weights(groups)
    if groups is ONE_TASK:
        weights = {"d": weights["d"]}
    means = {
        column: {
            name: sum((weight * simulated[name, task].accuracy for task, weight in by_task.items()), Fraction(0))
            for name in names
        }
        for column, by_task in weights.items()
    }
    cells = {name: dict.fromkeys(tasks, (num_seeds, Budget(224, 100, 1))) for name in names}
    return find_marks(cells, means, weights, SimulatedComparer(simulated))


def marked_percent(groups, offsets, deviation, num_seeds, num_tables, seed=0):
    """Returns the percentage of tables in which a row is marked best."""
    generator = np.random.default_rng(seed)
    marked = [
        "best" in simulate_marks(generator, groups, offsets, deviation, num_seeds).values() for _ in range(num_tables)
    ]
    return 100 * sum(marked) / num_tables


CASES = {
    "two methods, 1 seed": (ONE_TASK, (0, 0), 1, 200),
    "two methods, 3 seeds": (ONE_TASK, (0, 0), 3, 4000),
    "six methods, 3 seeds": (ONE_TASK, (0,) * 6, 3, 1000),
    "two best of six, 3 seeds": (ONE_TASK, TIE_OF_TWO, 3, 2000),
    "two methods, 8 tasks and 5 means, 3 seeds": (GROUPS, (0, 0), 3, 1000),
    "one better by 4 points, 3 seeds": (ONE_TASK, (0, -4), 3, 1000),
}


def simulated_rates(scale=1.0):
    """Returns the percentage of marked tables by case and deviation between seeds."""
    return {
        (name, deviation): marked_percent(groups, offsets, deviation, num_seeds, int(scale * num_tables))
        for name, (groups, offsets, num_seeds, num_tables) in CASES.items()
        for deviation in DEVIATIONS
    }


def as_markdown(rates):
    """Returns the rates as the table of docs/statistics.md."""
    lines = ["| tables with a mark (%), by the deviation between seeds | " + " | ".join(map(str, DEVIATIONS)) + " |"]
    lines.append("|---" + "|---:" * len(DEVIATIONS) + "|")
    for name, (*_, num_tables) in CASES.items():
        cells = [f"{rates[name, deviation]:.1f}" for deviation in DEVIATIONS]
        lines.append(f"| {name} ({num_tables} tables) | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_markdown(simulated_rates()))
