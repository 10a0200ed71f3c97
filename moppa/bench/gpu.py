"""The parts of `moppa gpu`, each run in a process of its own, and the table of their results."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from moppa.bench.cell import cell_phases
from moppa.bench.roofline import measure_machine
from moppa.bench.step_modes import measure_evaluation, measure_steps
from moppa.bench.steps import Setup
from moppa.bench.vs_peft import compare
from moppa.utils.gpu import DTYPES

METHODS = ("linear", "lora", "moppa", "adaptformer")
HALF_PRECISIONS = ("bf16-mixed", "bf16")
Keep = Callable[[Any], object]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured: the model of the steps, the backbones of the cells, and numbers of images and epochs."""

    timm: str
    image_size: int
    batch_size: int
    eval_batch_size: int
    rounds: int
    backbones: Sequence[str]
    num_test: int
    epochs: int
    peft_timm: str
    peft_images: int

    def setup(self, device: torch.device, **changes: Any) -> Setup:
        """Returns the setup of a benchmark of steps."""
        settings = {"timm_name": self.timm, "batch_size": self.batch_size, "rounds": self.rounds, **changes}
        return Setup(image_size=self.image_size, device=device, **settings)


ON_GPU = Size(
    timm="vit_base_patch16_224",
    image_size=224,
    batch_size=64,
    eval_batch_size=512,
    rounds=10,
    backbones=("dinov2_vits14", "vit_b16_in21k"),
    num_test=5400,
    epochs=10,
    peft_timm="vit_small_patch16_224",
    peft_images=512,
)
# shows that every part runs, on a machine without a GPU
ON_CPU = Size(
    timm="test_vit",
    image_size=64,
    batch_size=4,
    eval_batch_size=8,
    rounds=1,
    backbones=("test_vit",),
    num_test=20,
    epochs=1,
    peft_timm="test_vit",
    peft_images=8,
)


def size_for(device: torch.device) -> Size:
    """Returns the sizes of a device."""
    return ON_GPU if device.type == "cuda" else ON_CPU


def run_machine(device: torch.device, size: Size, keep: Keep) -> None:
    """Measures the throughput of matrix products and copies."""
    keep(measure_machine(device, rounds=size.rounds))


def run_steps(device: torch.device, size: Size, keep: Keep) -> None:
    """Measures eager and captured steps in every precision."""
    steps = ("eager", "captured") if device.type == "cuda" else ("eager",)
    modes = [(step, precision) for precision in reversed(DTYPES) for step in steps]
    measure_steps(size.setup(device), METHODS, modes, keep=keep)


def run_compiled(device: torch.device, size: Size, keep: Keep) -> None:
    """Measures compiled steps in half precision."""
    if device.type == "cuda":
        modes = [("compiled", precision) for precision in reversed(HALF_PRECISIONS)]
        measure_steps(size.setup(device), ("lora", "moppa", "adaptformer"), modes, keep=keep)


def run_evaluation(device: torch.device, size: Size, keep: Keep) -> None:
    """Measures an evaluation in every precision."""
    measure_evaluation(size.setup(device, batch_size=size.eval_batch_size), list(reversed(DTYPES)), keep=keep)


def run_cells(_: torch.device, size: Size, keep: Keep) -> None:
    """Measures LoRA's cell of EuroSAT's shape by phase, on noise and random weights."""
    with tempfile.TemporaryDirectory() as folder:
        phases: dict[str, dict[str, float]] = {}
        for backbone in size.backbones:
            phases[backbone] = cell_phases(noise_cell(size, backbone, Path(folder)))
            keep(phases)


def noise_cell(size: Size, backbone: str, cache: Path) -> list[str]:
    """Returns the overrides of a cell of EuroSAT's shape on generated images."""
    return [
        "task=eurosat",
        "task.fingerprint=null",
        "task.test_sha256=null",
        f"task.num_test={size.num_test}",
        "data._target_=moppa.bench.noise.NoiseSource",
        "data.name=noise",
        f"data.cache={cache}",
        "method=lora",
        f"backbone={backbone}",
        f"backbone.image_size={size.image_size}",
        "backbone.weights=random",
        f"train.epochs={size.epochs}",
    ]


def run_peft(device: torch.device, size: Size, keep: Keep) -> None:
    """Compares with HF peft in an ordinary loop over JPEG files."""
    setup = size.setup(device, timm_name=size.peft_timm, rounds=2)
    keep(compare(setup, "peft", num_images=size.peft_images))


PARTS: dict[str, Callable[[torch.device, Size, Keep], None]] = {
    "machine": run_machine,
    "steps": run_steps,
    "evaluation": run_evaluation,
    "cells": run_cells,
    "peft": run_peft,
    "compiled": run_compiled,
}


def run_part(name: str, device: torch.device, path: Path) -> None:
    """Runs one part and writes its result to `path` after every measurement, so that a part that is stopped counts."""
    PARTS[name](device, size_for(device), lambda result: path.write_text(json.dumps(result)))


def table(results: Mapping[str, Any], size: Size) -> list[str]:
    """Returns the lines of a short table of what there is."""
    machine = results.get("machine") or {}
    lines = [f"machine     {machine.get('name', 'not measured')}, torch {machine.get('torch', torch.__version__)}"]
    gemm = machine.get("gemm_flops_per_second")
    if gemm:
        copy = machine["copy_bytes_per_second"]
        lines.append(f"            {gemm / 1e12:,.1f} TFLOP/s in {machine['gemm_dtype']}, copy {copy / 1e12:,.2f} TB/s")
    rows = [*(results.get("steps") or []), *(results.get("compiled") or [])]
    if rows:
        lines.append(f"steps       {size.timm} at {size.image_size} px, batch {size.batch_size}: ms (share of GEMM)")
        lines += step_lines(rows, gemm)
    for row in results.get("evaluation") or []:
        shown = row["error"] if "error" in row else f"{1000 * row['seconds_per_image']:.3f} ms an image"
        lines.append(f"evaluation  {row['precision']}, batch {size.eval_batch_size}: {shown}")
    for backbone, seconds in (results.get("cells") or {}).items():
        shown = ", ".join(f"{phase} {value:.1f}" for phase, value in seconds.items())
        lines.append(f"cell        {backbone}, {size.epochs} epochs, {size.num_test} test images, seconds: {shown}")
    if results.get("peft"):
        seconds = results["peft"]["seconds_per_image"]
        ratios = ", ".join(
            f"{name} {seconds[f'{name}, peft'] / seconds[f'{name}, ours']:.2f}" for name in ("epoch", "test")
        )
        lines.append(f"peft / ours {size.peft_timm}: {ratios}")
    return lines


def step_lines(rows: Sequence[Mapping[str, Any]], gemm: float | None) -> list[str]:
    """Returns one line for each mode with a column for each method."""
    modes = list(dict.fromkeys((row["step"], row["precision"]) for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cells = {(row["step"], row["precision"], row["method"]): step_text(row, gemm) for row in rows}
    lines = [" " * 12 + f"{'':<22}" + "".join(f"{method:>16}" for method in methods)]
    for step, precision in modes:
        texts = [cells.get((step, precision, method), "") for method in methods]
        lines.append(" " * 12 + f"{step + ' ' + precision:<22}" + "".join(f"{text:>16}" for text in texts))
    return lines + [f"            {row['method']} {row['step']}: {row['error']}" for row in rows if "error" in row]


def step_text(row: Mapping[str, Any], gemm: float | None) -> str:
    """Returns the milliseconds of a step and its share of the machine's matrix products."""
    if "error" in row:
        return "failed"
    share = f" ({100 * row['step_flops'] / row['step_seconds'] / gemm:.0f} %)" if gemm else ""
    return f"{1000 * row['step_seconds']:.1f}{share}"


def as_json(results: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """Returns the results with what was measured."""
    return {"size": asdict(size), **results}
