"""What the MoPPA unit costs beside the frozen block it serves: python scripts/bench_adapter.py [--rounds 15].

ViT-B/16 at 224 px; batch 8 on a CPU, 64 on a GPU; forward plus backward, where a frozen block passes the gradient on to
its input. Everything is timed in turn, round by round, and reported by its median, so that a drifting machine shifts
all alike. The naive forms are the operator as one would write it first, heat, wave and Poisson each with its own
transforms: on this project's transforms, and channels first, as D X D^T for each channel.
"""

import argparse
import copy
import json
import math
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from moppa.bench.timing import interleaved
from moppa.mixture import physics
from moppa.mixture.unit import AfterNorm, Unit
from moppa.peft.blocks import BlockInfo
from moppa.utils.config import compose_config, instantiate
from moppa.utils.device import configure_process, device_info
from moppa.utils.matmul import BACKENDS, as_chosen

DIM, GRID = 768, (14, 14)


class Naive(nn.Module):
    """Three transforms forth and three back, grids made anew every time."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        learned, unit = self.unit.constants(), self.unit
        a = weights[:, :, None, None]
        prefix, grid = x[:, :1], x[:, 1:].unflatten(1, GRID)
        y = [
            physics.heat(grid, learned["diffusivity"], learned["time"]).flatten(1, 2),
            physics.wave(grid, learned["speed"], learned["time"]).flatten(1, 2),
            physics.poisson(grid, learned["source"]).flatten(1, 2),
        ]
        y = [torch.cat([kept * prefix, one], dim=1) for kept, one in zip((1, 1, 0), y, strict=True)]
        mixture = a[:, 0] * y[0] + a[:, 1] * y[1] + a[:, 2] * y[2]
        return mixture if unit.down is not None else unit.scale * unit.up * mixture


class ChannelsFirst(nn.Module):
    """The same on (B, C, H, W), with the grid's constants at hand."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        learned, unit, on = self.unit.constants(), self.unit, self.unit.basis
        k, c, t = (learned[name][:, None, None] for name in ("diffusivity", "speed", "time"))
        prefix, grid = x[:, :1], x[:, 1:].transpose(1, 2).unflatten(2, GRID)

        def solved(gain: Tensor, start: Tensor) -> Tensor:
            return on.rows.T @ (gain * (on.rows @ start @ on.columns.T)) @ on.columns

        y = (
            solved(torch.exp(-k * t * on.laplace), grid),
            solved(torch.cos(c * t * on.laplace.sqrt()), grid),
            solved(on.inverse_laplace, learned["source"] * grid),
        )
        a = weights[:, :, None, None]
        tokens = sum(share[..., None] * one for share, one in zip(a.unbind(1), y, strict=True)).flatten(2)
        mixture = torch.cat([(a[:, 0] + a[:, 1]) * prefix, tokens.transpose(1, 2)], dim=1)
        return mixture if unit.down is not None else unit.scale * unit.up * mixture


def main() -> None:
    """Prints the table, and writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--matmul-backend", choices=BACKENDS, default="auto", help="run.matmul_backend: %(choices)s (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = 64 if device.type == "cuda" else 8
    configure_process(None, asked.matmul_backend, keep_memory=True)
    found = measure(device, batch, asked.rounds)
    show(found, device, batch)
    if asked.json:
        asked.json.write_text(json.dumps({"device": device_info(device), "batch": batch, **found}, indent=2) + "\n")


def measure(device: torch.device, batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of everything, and the shares that the unit adds."""
    torch.manual_seed(0)
    block = as_chosen(Block(DIM, num_heads=12, qkv_bias=True)).to(device).requires_grad_(False)
    tokens = torch.randn(batch, 197, DIM, device=device, requires_grad=True)
    found = {}
    for name, rank in (("r = 8", 8), ("full width", None)):
        unit = unit_of(block, rank).to(device).train()
        width = rank or DIM
        x = torch.randn(batch, 1 + math.prod(GRID), width, device=device, requires_grad=True)
        weights = torch.full((batch, 3), 1 / 3, device=device)
        naive, channels_first = Naive(unit), ChannelsFirst(unit)
        for other in (naive, channels_first):
            torch.testing.assert_close(other(x, weights), unit.solve(x, weights), atol=1e-5, rtol=1e-4)
        with_unit = copy.deepcopy(block)
        with_unit.norm1 = AfterNorm(with_unit.norm1, unit, place_of(block))
        seconds = interleaved(
            {
                "block": lambda: block(tokens).sum().backward(),
                "block with unit": lambda with_unit=with_unit: with_unit(tokens).sum().backward(),
                "operator": lambda unit=unit, x=x, weights=weights: unit.solve(x, weights).sum().backward(),
                "naive operator": lambda naive=naive, x=x, weights=weights: naive(x, weights).sum().backward(),
                "naive, channels first": lambda form=channels_first, x=x, weights=weights: (
                    form(x, weights).sum().backward()
                ),
            },
            device,
            rounds,
        )
        found[name] = {
            **seconds,
            "unit / block": seconds["block with unit"] / seconds["block"] - 1,
            "operator / block": seconds["operator"] / seconds["block"],
            "naive / operator": seconds["naive operator"] / seconds["operator"],
            "channels first / operator": seconds["naive, channels first"] / seconds["operator"],
        }
    return found


def unit_of(block: Block, rank: int | None) -> Unit:
    """The unit that `configs/method/moppa.yaml` describes, but with Poisson's exact gain, on one block of ViT-B/16."""
    config = compose_config(["method=moppa", "task=cifar100"])
    settings = {
        **instantiate(config, "method.attach", _partial_=True).keywords,
        "rank": rank,
        "poisson_gain": "exact",
    }
    del settings["position"]
    unit = Unit(place_of(block), **settings, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(unit.up, std=0.02)
    return unit


def place_of(block: nn.Module) -> BlockInfo:
    """Where the block of a ViT-B/16 stands."""
    return BlockInfo(owner=block, name="", dim=DIM, grid=GRID, num_prefix_tokens=1, layout="tokens")


def show(found: dict[str, dict[str, float]], device: torch.device, batch: int) -> None:
    """The figures as a table."""
    table = Table(title=f"forward + backward, batch {batch}, {device_info(device)['name']}, median")
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
    for row in next(iter(found.values())):
        cells = [f"{1000 * one[row]:.2f} ms" if "/" not in row else f"{one[row]:.2f}" for one in found.values()]
        if row in {"unit / block", "operator / block"}:
            cells = [f"{100 * one[row]:.1f} %" for one in found.values()]
        table.add_row(row, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
