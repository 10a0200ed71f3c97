"""The time of a training step in every `run.step` and `run.precision`, and of an evaluation in every precision."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from moppa.bench.steps import DROP_PATH, Setup, evaluation_step, training_step, with_method
from moppa.bench.timing import interleaved, synchronize
from moppa.peft.inject import merge
from moppa.sweep.cost import count_flops
from moppa.utils.usage import peak_memory_bytes

Row = dict[str, Any]


def measure_steps(
    setup: Setup, methods: Sequence[str], modes: Sequence[tuple[str, str]], *, keep: Callable[[list[Row]], object]
) -> None:
    """Measures a training step of each method in each mode, a pair of `run.step` and `run.precision`.

    `keep` is called with all rows so far after each of them. A mode that fails gives a row with its error.
    """
    rows: list[Row] = []
    flops: dict[str, float] = {}
    for step, precision in modes:
        for method in methods:
            row: Row = {"method": method, "step": step, "precision": precision}
            try:
                flops.setdefault(method, step_flops(setup, method))
                row |= measure_step(replace(setup, step=step, precision=precision), method)
                row["step_flops"] = flops[method] * setup.batch_size
            except Exception as error:  # one mode must not stop the others
                row["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
            rows.append(row)
            keep(rows)


def measure_step(setup: Setup, method: str) -> Row:
    """Returns the seconds of a step and of the first step, which compiles and captures, and the peak memory."""
    images, labels = setup.random_batch()
    if setup.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(setup.device)
    model = setup.prepare(with_method(method, setup.frozen_backbone(drop_path=DROP_PATH)))
    step = training_step(model, images, labels, setup)
    began = time.perf_counter()
    step()
    synchronize(setup.device)
    return {
        "first_seconds": time.perf_counter() - began,
        "step_seconds": interleaved({"step": step}, setup.device, setup.rounds)["step"],
        "peak_memory_bytes": peak_memory_bytes(setup.device),
    }


def step_flops(setup: Setup, method: str) -> float:
    """Returns the operations per image of a training step."""
    images, labels = setup.random_batch()
    model = with_method(method, setup.frozen_backbone()).to(setup.device)
    return count_flops(model, images[:2], labels[:2])[0]


def measure_evaluation(setup: Setup, precisions: Sequence[str], *, keep: Callable[[list[Row]], object]) -> None:
    """Measures an evaluation of merged LoRA in each precision, with the setup's batch size."""
    rows: list[Row] = []
    images, _ = setup.random_batch()
    lora = with_method("lora", setup.frozen_backbone())
    for precision in precisions:
        row: Row = {"precision": precision}
        try:
            precise = replace(setup, precision=precision)
            model = merge(precise.prepare(copy.deepcopy(lora)))
            seconds = precise.seconds_per_image({"evaluation": evaluation_step(model, images, precise)})
            row["seconds_per_image"] = seconds["evaluation"]
        except Exception as error:  # one precision must not stop the others
            row["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        rows.append(row)
        keep(rows)
