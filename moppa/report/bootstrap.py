"""Uncertainty of accuracies and of their differences. Every draw comes from a seed that is passed.

Intervals come from a bootstrap on two levels: the test images and, where a cell has several seeds, the seeds, as two
independent samples. Images are drawn by the multinomial of their patterns of right and wrong over the seeds, which is
the same as drawing images one by one. The deviation of a drawn mean over s seeds is widened by sqrt(s / (s - 1)),
without which the bootstrap of so few values is too narrow (Davison and Hinkley, Bootstrap Methods, 1997).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its central interval at a level, in the value's unit."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def interval_of(value: float, draws: np.ndarray, level: float = LEVEL) -> Interval:
    """The percentile interval of bootstrap draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high))


def draw_accuracies(cells: Sequence[np.ndarray], *, seed: int, draws: int = DRAWS) -> list[np.ndarray]:
    """Bootstrap draws of the accuracy, in percent, of one or more cells that answered the same images.

    `cells` holds a bool array (seeds, images) each; the same images are drawn for all of them.
    """
    generator = np.random.default_rng(seed)
    stacked = np.concatenate(cells)  # (all seeds, images)
    patterns, counts = np.unique(stacked, axis=1, return_counts=True) if len(stacked) > 16 else patterns_of(stacked)
    num_images = stacked.shape[1]
    drawn = generator.multinomial(num_images, counts / num_images, size=draws)  # (draws, patterns)
    by_seed = 100 * drawn @ patterns.T.astype(float) / num_images  # (draws, all seeds)
    ends = np.cumsum([len(cell) for cell in cells])
    return [over_seeds(part, generator) for part in np.split(by_seed, ends[:-1], axis=1)]


def patterns_of(stacked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The columns that occur in a bool array (rows, images), and how often each does."""
    codes = (1 << np.arange(len(stacked))) @ stacked
    counts = np.bincount(codes, minlength=1 << len(stacked))
    found = np.flatnonzero(counts)
    return (found[None, :] >> np.arange(len(stacked))[:, None]) & 1, counts[found]


def over_seeds(by_seed: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draws of the mean over seeds, from draws (draws, seeds) of every seed's accuracy."""
    draws, num_seeds = by_seed.shape
    mean = by_seed.mean(axis=1)
    if num_seeds == 1:
        return mean
    weights = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=draws) / num_seeds
    return mean + np.sqrt(num_seeds / (num_seeds - 1)) * ((weights * by_seed).sum(axis=1) - mean)


def accuracy_interval(right: np.ndarray, *, seed: int, draws: int = DRAWS) -> Interval:
    """The accuracy of a cell, in percent, from which images were right: bool (seeds, images)."""
    [drawn] = draw_accuracies([right], seed=seed, draws=draws)
    return interval_of(100 * float(right.mean()), drawn)


def difference_draws(first: np.ndarray, second: np.ndarray, *, seed: int, draws: int = DRAWS) -> np.ndarray:
    """Bootstrap draws of how much the first cell's accuracy exceeds the second's, on the same images, in points."""
    one, other = draw_accuracies([first, second], seed=seed, draws=draws)
    return one - other


def paired_difference(first: np.ndarray, second: np.ndarray, *, seed: int, draws: int = DRAWS) -> Interval:
    """How much the first cell's accuracy exceeds the second's: bool (seeds, images) each, the same images."""
    drawn = difference_draws(first, second, seed=seed, draws=draws)
    return interval_of(100 * float(first.mean() - second.mean()), drawn)


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """The exact two-sided p of McNemar's test: one run each, bool (images,); 1 where they never differ."""
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)
