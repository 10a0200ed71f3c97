"""Estimates of accuracies and of their differences, with intervals and p-values.

An accuracy varies with the test images and with the seeds. The variance of an estimate is the sum of one component for
the images and one for the seeds of each row; it counts the noise of single predictions twice and is so never too small
on average. The degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946), and quantiles are Student's: with
three seeds a normal quantile, or the percentiles of a bootstrap, would be too small.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Correctness:
    """The correct predictions of one row on one task.

    Attributes:
        by_image: the number of seeds that predict each image correctly, (images,).
        by_seed: the number of images that each seed predicts correctly.
    """

    by_image: np.ndarray
    by_seed: tuple[int, ...]

    @classmethod
    def from_seeds(cls, correct: Sequence[np.ndarray]) -> "Correctness":
        """Counts the correct predictions of several seeds: bool (images,) each."""
        return cls(by_image=np.sum(correct, axis=0), by_seed=tuple(int(seed.sum()) for seed in correct))

    @property
    def num_seeds(self) -> int:
        return len(self.by_seed)

    @property
    def accuracy(self) -> Fraction:
        """The mean accuracy over seeds in percent."""
        return Fraction(100 * sum(self.by_seed), self.num_seeds * len(self.by_image))

    @property
    def seed_component(self) -> tuple["Component", ...]:
        """The variance of the mean over seeds that the seeds cause; nothing of a single seed."""
        if self.num_seeds < 2:
            return ()
        accuracies = 100 * np.array(self.by_seed) / len(self.by_image)
        return (Component(variance=float(accuracies.var(ddof=1)) / self.num_seeds, freedom=self.num_seeds - 1),)


@dataclass(frozen=True, kw_only=True)
class Component:
    """A part of an estimate's variance, in squared percent, and the degrees of freedom with which it is known."""

    variance: float
    freedom: float


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its central interval, in the value's unit."""

    value: Fraction
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An accuracy, or a difference of accuracies, in percent, with the independent components of its variance.

    Without components nothing is known about its variance.
    """

    value: Fraction
    components: tuple[Component, ...] = ()

    @property
    def variance(self) -> float:
        return sum(component.variance for component in self.components)

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom of the variance."""
        parts = sum(component.variance**2 / component.freedom for component in self.components)
        return self.variance**2 / parts if parts else 1.0

    @property
    def p_value(self) -> float:
        """The two-sided p-value of the hypothesis that the value is 0; 1 if nothing is known about its variance."""
        from scipy.special import stdtr

        if not self.value or not self.components:
            return 1.0
        return 2 * float(stdtr(self.freedom, -abs(float(self.value)) / self.variance**0.5)) if self.variance else 0.0

    def interval(self, level: float = LEVEL) -> Interval:
        """Returns the interval of Student's distribution; the value alone if nothing is known about its variance."""
        from scipy.special import stdtrit

        width = float(stdtrit(self.freedom, (1 + level) / 2)) * self.variance**0.5 if self.components else 0.0
        return Interval(value=self.value, low=float(self.value) - width, high=float(self.value) + width)


def estimate_accuracy(correct: Correctness) -> Estimate:
    """Returns the mean accuracy over seeds; of a single seed, the variance is that of the images alone."""
    image = image_component(correct.by_image / correct.num_seeds)
    return Estimate(value=correct.accuracy, components=(image, *correct.seed_component))


def estimate_difference(first: Correctness, second: Correctness) -> Estimate:
    """Returns the first row's mean accuracy minus the second's on the same images.

    If a row has a single seed, the variance holds nothing of its seeds: it says how these runs differ, not the methods.
    """
    image = image_component(first.by_image / first.num_seeds - second.by_image / second.num_seeds)
    components = (image, *first.seed_component, *second.seed_component)
    return Estimate(value=first.accuracy - second.accuracy, components=components)


def image_component(values: np.ndarray) -> Component:
    """Returns the variance of a mean over test images, (images,), in squared percent."""
    num_images = len(values)
    freedom = max(1, num_images - 1)
    return Component(
        variance=1e4 * float(((values - values.mean()) ** 2).sum()) / freedom / num_images, freedom=freedom
    )


def weighted_sum(estimates: Iterable[tuple[Fraction, Estimate]]) -> Estimate:
    """Returns the sum of estimates on different tasks, each with its weight.

    Tasks have different images and runs, so that their components are independent. The components are left out if
    those of any task are unknown.
    """
    terms = list(estimates)
    value = sum((weight * estimate.value for weight, estimate in terms), Fraction(0))
    components = tuple(
        Component(variance=float(weight) ** 2 * part.variance, freedom=part.freedom)
        for weight, estimate in terms
        for part in estimate.components
    )
    is_known = all(estimate.components for _, estimate in terms)
    return Estimate(value=value, components=components if is_known else ())


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the exact two-sided p-value of McNemar's test of two runs: bool (images,) each; 1 if they are equal.

    It compares two runs, and not the methods that were run: another seed may differ by more.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def holm(p_values: Sequence[float], families: Sequence[str]) -> list[float]:
    """Returns p-values adjusted for multiple tests (Holm, Scandinavian Journal of Statistics 6, 1979), in order.

    In a family, a claim may imply others, whose p-values must not be larger: the family counts once, until all its
    claims are accepted. With a family for each claim this is Holm's own method.
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    remaining = Counter(families)
    for index in sorted(range(len(p_values)), key=lambda index: p_values[index]):
        largest = max(largest, min(1.0, len(remaining) * p_values[index]))
        adjusted[index] = largest
        remaining[families[index]] -= 1
        remaining += Counter()  # drops the families without a claim
    return adjusted
