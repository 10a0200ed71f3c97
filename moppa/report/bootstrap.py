"""Bootstrap intervals of accuracies and of their differences, and McNemar's test.

The bootstrap draws test images and, if a row has several seeds, seeds, as two independent samples. Images are drawn
from the multinomial distribution of their correctness patterns over the seeds, which is equivalent to drawing them one
by one. The deviation of a drawn mean over s seeds is widened by sqrt(s / (s - 1)); without that the bootstrap of so few
values is too narrow (Davison and Hinkley, Bootstrap Methods, 1997). All randomness comes from the `seed` argument.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its central interval, in the value's unit."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def percentile_interval(value: float, draws: np.ndarray, level: float = LEVEL) -> Interval:
    """Returns the percentile interval of bootstrap draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high))


def draw_accuracies(correct: Sequence[np.ndarray], *, seed: int, num_draws: int = NUM_DRAWS) -> list[np.ndarray]:
    """Returns bootstrap draws of the accuracy, in percent, of one or more rows on the same test images.

    Args:
        correct: for each row, which images are predicted correctly: bool (seeds, images). The same images are drawn for
            all rows.
        seed: of the generator.
        num_draws: the length of each returned array.
    """
    generator = np.random.default_rng(seed)
    stacked = np.concatenate(correct)  # (all seeds, images)
    patterns, counts = np.unique(stacked, axis=1, return_counts=True) if len(stacked) > 16 else unique_columns(stacked)
    num_images = stacked.shape[1]
    drawn = generator.multinomial(num_images, counts / num_images, size=num_draws)  # (draws, patterns)
    by_seed = 100 * drawn @ patterns.T.astype(float) / num_images  # (draws, all seeds)
    ends = np.cumsum([len(row) for row in correct])
    return [draw_seed_means(row, generator) for row in np.split(by_seed, ends[:-1], axis=1)]


def unique_columns(stacked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct columns of a bool array (rows, images) and how often each occurs; for at most 16 rows."""
    codes = (1 << np.arange(len(stacked))) @ stacked
    counts = np.bincount(codes, minlength=1 << len(stacked))
    present = np.flatnonzero(counts)
    return (present[None, :] >> np.arange(len(stacked))[:, None]) & 1, counts[present]


def draw_seed_means(by_seed: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns draws of the mean over seeds, from draws (draws, seeds) of every seed's accuracy."""
    num_draws, num_seeds = by_seed.shape
    mean = by_seed.mean(axis=1)
    if num_seeds == 1:
        return mean
    weights = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_draws) / num_seeds
    return mean + np.sqrt(num_seeds / (num_seeds - 1)) * ((weights * by_seed).sum(axis=1) - mean)


def accuracy_interval(correct: np.ndarray, *, seed: int, num_draws: int = NUM_DRAWS) -> Interval:
    """Returns the accuracy of a row, in percent, with its interval, from its correctness: bool (seeds, images)."""
    [draws] = draw_accuracies([correct], seed=seed, num_draws=num_draws)
    return percentile_interval(100 * float(correct.mean()), draws)


def difference_draws(first: np.ndarray, second: np.ndarray, *, seed: int, num_draws: int = NUM_DRAWS) -> np.ndarray:
    """Returns bootstrap draws of the first row's accuracy minus the second's, on the same images, in points."""
    first_draws, second_draws = draw_accuracies([first, second], seed=seed, num_draws=num_draws)
    return first_draws - second_draws


def paired_difference(first: np.ndarray, second: np.ndarray, *, seed: int, num_draws: int = NUM_DRAWS) -> Interval:
    """Returns the first row's accuracy minus the second's, in points: bool (seeds, images) each, the same images."""
    draws = difference_draws(first, second, seed=seed, num_draws=num_draws)
    return percentile_interval(100 * float(first.mean() - second.mean()), draws)


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the exact two-sided p-value of McNemar's test of two runs: bool (images,) each; 1 if they are equal."""
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)
