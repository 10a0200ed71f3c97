"""Randomness is passed: one seed, split into named streams, and a fence around torch's own generator."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed of its own for each named use, so that a new use never shifts the draws of another."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1  # fits a signed 64-bit integer


def generator_for(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for one named use."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's own generators for code that knows no other (timm's drop path), and restores them after."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
