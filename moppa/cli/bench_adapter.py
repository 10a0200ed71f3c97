"""Measures the cost of a MoPPA unit next to its frozen block: moppa bench-adapter [--rounds 15].

ViT-B/16 at 224 px, batch 8 on a CPU and 64 on a GPU; forward plus backward, through the frozen block to its input.
All functions run once per round and their medians are reported, so that a drifting machine affects all of them alike.
Two naive forms of the operator are measured too. They solve heat, wave and Poisson separately, each with its own
transforms: one with this project's transforms, one with channels first, as D X D^T per channel.
"""

import argparse
import copy
import json
import math
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from moppa.bench.timing import interleaved
from moppa.mixture import physics
from moppa.mixture.places import After
from moppa.mixture.settings import parse_settings
from moppa.mixture.unit import Unit
from moppa.peft.blocks import BlockInfo
from moppa.utils.config import compose_config, instantiate
from moppa.utils.device import configure_process, device_info
from moppa.utils.matmul import BACKENDS, use_backend
from moppa.utils.paths import user_path

DIM, GRID = 768, (14, 14)
RANKS = {"r = 8": 8, "full width": None}
Timings = dict[str, dict[str, float]]  # seconds and ratios by column and row of the table


class Naive(nn.Module):
    """Three separate solutions: three transforms, three inverse transforms, and a new basis for each."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        constants, a = self.unit.operator.constants(), weights[:, :, None, None]
        prefix, grid = x[:, :1], x[:, 1:].unflatten(1, GRID)
        grids = [
            physics.heat(grid, constants["diffusivity"], constants["time"]).flatten(1, 2),
            physics.wave(grid, constants["speed"], constants["time"]).flatten(1, 2),
            physics.poisson(grid, constants["source"]).flatten(1, 2),
        ]
        y = [torch.cat([gain * prefix, grid], dim=1) for gain, grid in zip((1, 1, 0), grids, strict=True)]
        return with_output_gain(self.unit, a[:, 0] * y[0] + a[:, 1] * y[1] + a[:, 2] * y[2])


class ChannelsFirst(nn.Module):
    """Three separate solutions on (B, C, H, W), with a shared basis."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        operator, a = self.unit.operator, weights[:, :, None, None]
        constants, basis = operator.constants(), operator.basis
        k, c, t = (constants[name][:, None, None] for name in ("diffusivity", "speed", "time"))
        prefix, grid = x[:, :1], x[:, 1:].transpose(1, 2).unflatten(2, GRID)

        def solve(gain: Tensor, start: Tensor) -> Tensor:
            return basis.rows.T @ (gain * (basis.rows @ start @ basis.columns.T)) @ basis.columns

        y = (
            solve(torch.exp(-k * t * basis.laplace), grid),
            solve(torch.cos(c * t * basis.laplace.sqrt()), grid),
            solve(basis.inverse_laplace, constants["source"] * grid),
        )
        tokens = (a[:, 0, ..., None] * y[0] + a[:, 1, ..., None] * y[1] + a[:, 2, ..., None] * y[2]).flatten(2)
        return with_output_gain(self.unit, torch.cat([(a[:, 0] + a[:, 1]) * prefix, tokens.transpose(1, 2)], dim=1))


def with_output_gain(unit: Unit, mixture: Tensor) -> Tensor:
    """Returns the mixture as the operator gives it: without a bottleneck Up is part of the filters."""
    return mixture if unit.output_gain is None else unit.output_gain * mixture


def main() -> None:
    """Prints the table and, with --json, writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--matmul-backend", choices=BACKENDS, default="auto", help="as run.matmul_backend (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds (%(default)s)")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="also write the results to FILE")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch_size = 64 if device.type == "cuda" else 8
    configure_process(threads=None, backend=arguments.matmul_backend, keep_memory=True)
    timings = measure(device, batch_size, arguments.rounds)
    print_table(timings, device, batch_size)
    if arguments.json:
        result = {"device": device_info(device), "batch": batch_size, **timings}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(device: torch.device, batch_size: int, rounds: int) -> Timings:
    """Returns median seconds and their ratios, with and without a bottleneck."""
    torch.manual_seed(0)
    block = Block(DIM, num_heads=12, qkv_bias=True).to(device).requires_grad_(False)
    tokens = torch.randn(batch_size, 1 + math.prod(GRID), DIM, device=device, requires_grad=True)
    with use_backend():
        return {name: measure_unit(make_unit(block, rank), block, tokens, rounds) for name, rank in RANKS.items()}


def measure_unit(unit: Unit, block: nn.Module, tokens: Tensor, rounds: int) -> dict[str, float]:
    """Returns the median seconds of one unit next to its block, and their ratios."""
    unit = unit.to(tokens.device).train()
    width = DIM if unit.down is None else len(unit.down)
    x = torch.randn(*tokens.shape[:2], width, device=tokens.device, requires_grad=True)
    weights = torch.full((len(x), 3), 1 / 3, device=x.device)
    naive, channels_first = Naive(unit), ChannelsFirst(unit)

    def operator() -> Tensor:
        return unit.operator(x, weights, unit.output_gain)

    for form in (naive, channels_first):
        torch.testing.assert_close(form(x, weights), operator(), atol=1e-5, rtol=1e-4)
    block_with_unit: Any = copy.deepcopy(block)
    block_with_unit.norm1 = After(block_with_unit.norm1, unit=unit, layout="tokens")
    with use_backend():
        seconds = interleaved(
            {
                "block": lambda: block(tokens).sum().backward(),
                "block with unit": lambda: block_with_unit(tokens).sum().backward(),
                "operator": lambda: operator().sum().backward(),
                "naive operator": lambda: naive(x, weights).sum().backward(),
                "naive, channels first": lambda: channels_first(x, weights).sum().backward(),
            },
            tokens.device,
            rounds,
        )
    return {
        **seconds,
        "unit / block": seconds["block with unit"] / seconds["block"] - 1,
        "operator / block": seconds["operator"] / seconds["block"],
        "naive / operator": seconds["naive operator"] / seconds["operator"],
        "channels first / operator": seconds["naive, channels first"] / seconds["operator"],
    }


def make_unit(block: nn.Module, rank: int | None) -> Unit:
    """Returns a unit for one block of ViT-B/16 with the three equations and Poisson's exact gain."""
    config = compose_config(["method=moppa", "task=cifar100"])
    defaults = parse_settings(instantiate(config, "method.attach", _partial_=True).keywords)
    unit = Unit(
        BlockInfo(owner=block, name="", dim=DIM, grid=GRID, num_prefix_tokens=1, layout="tokens"),
        replace(defaults, rank=rank, priors=("heat", "wave", "poisson"), poisson_gain="exact"),
        route_weight=defaults.route_weight,
        embedding=None,
        generator=torch.Generator().manual_seed(0),
    )
    nn.init.normal_(unit.up, std=0.02)
    return unit


def print_table(timings: Timings, device: torch.device, batch_size: int) -> None:
    """Prints milliseconds, ratios, and the shares of the block in percent."""
    table = Table(title=f"forward + backward, batch {batch_size}, {device_info(device)['name']}, median")
    table.add_column("")
    for name in timings:
        table.add_column(name, justify="right")
    for row in next(iter(timings.values())):
        values = [column[row] for column in timings.values()]
        if row in ("unit / block", "operator / block"):
            cells = [f"{100 * value:.1f} %" for value in values]
        elif "/" in row:
            cells = [f"{value:.2f}" for value in values]
        else:
            cells = [f"{1000 * value:.2f} ms" for value in values]
        table.add_row(row, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
