"""Fair timings of several functions on a machine whose speed drifts."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping

import torch

NUM_WARMUP_ROUNDS = 2


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    reduce: Callable[[Iterable[float]], float] = statistics.median,
) -> dict[str, float]:
    """Returns the typical seconds of each function. Every round calls each once, so that a drift affects all alike.

    A function that returns a number has measured itself, in seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for index in range(NUM_WARMUP_ROUNDS + rounds):
        for name, function in functions.items():
            synchronize(device)
            began = time.perf_counter()
            own_seconds = function()
            synchronize(device)
            if index >= NUM_WARMUP_ROUNDS:
                elapsed = time.perf_counter() - began
                times[name].append(own_seconds if isinstance(own_seconds, float) else elapsed)
    return {name: reduce(seconds) for name, seconds in times.items()}


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
