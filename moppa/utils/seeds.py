"""Randomness is passed, not global: one seed gives an independent generator for each named use."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Returns a seed for one named use, so that a new use does not change what the others draw."""
    text = "/".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1  # fits a signed 64-bit integer


def generator_for(seed: int, *names: str | int) -> torch.Generator:
    """Returns a CPU generator for one named use."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's default generators inside the block and restores them after it.

    For code that accepts no generator, such as timm's drop path.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
