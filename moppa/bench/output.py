"""The output of a benchmark: a table in the terminal and a JSON file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from moppa.bench.roofline import describe_machine
from moppa.utils.atomic import atomic_write

METHOD_COLUMNS = (
    "method",
    "parameters",
    "step, ms/image",
    "/ frozen",
    "of GEMM",
    "evaluation, ms/image",
    "of GEMM",
    "memory of a step",
)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table, the first column aligned to the left."""
    table = Table(title=title)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def method_rows(costs: Mapping[str, Mapping[str, Any]], gemm: float) -> list[list[str]]:
    """Returns a row per method, from the fastest to the slowest relative to the frozen backbone.

    `gemm` is the machine's operations per second in a square matrix product.
    """
    return [
        [
            method,
            f"{cost['trainable_params']:,}",
            f"{1000 * cost['step_seconds']:.1f}",
            f"{slowdown(cost):.2f}",
            f"{100 * cost['step_flops'] / cost['step_seconds'] / gemm:.0f} %",
            f"{1000 * cost['evaluation_seconds']:.1f}",
            f"{100 * cost['evaluation_flops'] / cost['evaluation_seconds'] / gemm:.0f} %",
            memory_text(cost),
        ]
        for method, cost in sorted(costs.items(), key=lambda item: slowdown(item[1]))
    ]


def slowdown(cost: Mapping[str, Any]) -> float:
    """Returns a method's step time over the frozen backbone's."""
    return cost["step_seconds"] / cost["plain_seconds"]


def memory_text(cost: Mapping[str, Any]) -> str:
    """Returns the memory that a step adds to the model; a dash if the system could not tell."""
    added = cost.get("step_memory_bytes")
    return "–" if added is None else f"{added / 1e9:.2f} GB"


def save_json(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")


def output_path(folder: Path, name: str, device: torch.device) -> Path:
    """Returns the path of a result, which names the device."""
    machine = describe_machine(device)["name"]
    slug = "".join(letter if letter.isalnum() else "-" for letter in machine).strip("-")
    return folder / f"{name}-{slug}.json"
