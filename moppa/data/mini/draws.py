"""Numbers that depend on a key alone: SHAKE-256 of the key and of how many draws came before (FIPS 202)."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Draws:
    """An endless row of draws, the same for the same key on any machine and with any version of any library."""

    def __init__(self, *key: str | int) -> None:
        self.key = "/".join(str(part) for part in key)
        self.count = 0

    def raw(self, num_bytes: int) -> bytes:
        """The next bytes."""
        self.count += 1
        return hashlib.shake_256(f"{self.key}#{self.count}".encode()).digest(num_bytes)

    def below(self, bound: int) -> int:
        """A whole number from 0 to `bound` - 1."""
        return int.from_bytes(self.raw(8), "big") * bound >> 64

    def between(self, low: float, high: float) -> float:
        """A number from `low` to `high`, one of 2**32 evenly spaced ones."""
        return low + (high - low) * (int.from_bytes(self.raw(4), "big") / 2**32)

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices."""
        return choices[self.below(len(choices))]

    def many(self, *shape: int) -> np.ndarray:
        """An array of numbers from 0 to 255/256, float64."""
        return np.frombuffer(self.raw(int(np.prod(shape))), dtype=np.uint8).reshape(shape) / 256

    def bells(self, *shape: int) -> np.ndarray:
        """An array of sums of three such numbers, of mean 0 and standard deviation 1, near enough to a normal's."""
        first, second, third = (self.many(*shape) for _ in range(3))
        return (first + second + third - 1.494140625) * 2.0  # 1.494...: three times the mean, 255/512
