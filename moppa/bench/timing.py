"""Fair timings of several functions on a machine whose speed drifts."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping

import torch


def interleaved(
    works: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    typical: Callable[[Iterable[float]], float] = statistics.median,
) -> dict[str, float]:
    """Typical seconds of each work, all of them once in every round, so that a drifting machine shifts all alike."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for index in range(rounds + 2):  # two rounds to warm up
        for name, work in works.items():
            synchronize(device)
            began = time.perf_counter()
            work()
            synchronize(device)
            if index >= 2:
                taken[name].append(time.perf_counter() - began)
    return {name: typical(seconds) for name, seconds in taken.items()}


def synchronize(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
