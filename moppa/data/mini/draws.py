"""Random numbers that depend only on a key: SHAKE-256 (FIPS 202) of the key and the number of the draw."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Draws:
    """An endless sequence of random draws, the same for the same key on any machine with any library version."""

    def __init__(self, *key: str | int) -> None:
        self.key = "/".join(str(component) for component in key)
        self.num_draws = 0

    def raw(self, num_bytes: int) -> bytes:
        """Returns the next bytes."""
        self.num_draws += 1
        return hashlib.shake_256(f"{self.key}#{self.num_draws}".encode()).digest(num_bytes)

    def below(self, bound: int) -> int:
        """Returns an integer from 0 to `bound` - 1."""
        return int.from_bytes(self.raw(8), "big") * bound >> 64

    def between(self, low: float, high: float) -> float:
        """Returns a number from `low` to `high`, one of 2**32 evenly spaced ones."""
        return low + (high - low) * (int.from_bytes(self.raw(4), "big") / 2**32)

    def pick(self, choices: Sequence[T]) -> T:
        """Returns one of the choices."""
        return choices[self.below(len(choices))]

    def uniform(self, *shape: int) -> np.ndarray:
        """Returns an array of numbers from 0 to 255/256, float64."""
        return np.frombuffer(self.raw(int(np.prod(shape))), dtype=np.uint8).reshape(shape) / 256

    def normal(self, *shape: int) -> np.ndarray:
        """Returns an array of mean 0 and standard deviation 1: sums of three uniform numbers, near a normal."""
        first, second, third = (self.uniform(*shape) for _ in range(3))
        return (first + second + third - 1.494140625) * 2.0  # 1.494140625 is three times the mean 255/512
