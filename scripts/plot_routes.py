"""Draws what a MoPPA cell learned: python scripts/plot_routes.py results/records/.../seed0.json [--out FOLDER].

Two pictures, PNG and SVG: the mixing weights over depth and epochs, and the impulse response of each block's operator
at the end of the training, which is what one token in the middle of the grid spreads to its neighbours.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from moppa import record
from moppa.errors import UserError


def main() -> int:
    """Prints the paths of the pictures; 1 where the record holds no routes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--out", type=Path, help="where the pictures go; beside the record by default")
    asked = parser.parse_args()
    try:
        told = blocks_told(asked.record)
        priors = record.read(asked.record)["config"]["method"]["attach"]["priors"]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    out = asked.out or asked.record.parent
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in {"routes": routes(told, priors), "responses": responses(told)}.items():
        for suffix in ("png", "svg"):
            path = out / f"{asked.record.stem}-{name}.{suffix}"
            figure.savefig(path, dpi=150)
            print(path)
    return 0


def blocks_told(path: Path) -> list[dict[str, np.ndarray]]:
    """For every block in depth order: route (epochs, priors), response (1, H, W) and what else its unit told."""
    record.read(path)
    blocks: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path.with_suffix(".npz")) as kept:
        for key in kept.files:
            block, _, name = key.rpartition("/")
            if block:
                blocks.setdefault(block, {})[name] = kept[key]
    told = [block for block in blocks.values() if "route" in block]
    if not told:
        raise UserError(f"{path} holds no routes: it is not the record of a MoPPA cell; give one of method moppa")
    return told


def routes(told: list[dict[str, np.ndarray]], priors: list[str]) -> Figure:
    """One heat map a prior: block over epoch."""
    weights = np.stack([block["route"] for block in told])  # (blocks, epochs, priors)
    size = (3.6 * len(priors), 3.4)
    figure = Figure(figsize=size, layout="constrained")  # no pyplot: no screen is asked for
    axes = figure.subplots(1, len(priors), sharey=True, squeeze=False)
    for index, (prior, axis) in enumerate(zip(priors, axes[0], strict=True)):
        image = axis.imshow(
            weights[:, :, index], aspect="auto", origin="lower", cmap="cividis", vmin=weights.min(), vmax=weights.max(),
            extent=(0.5, weights.shape[1] + 0.5, 0.5, len(told) + 0.5),
        )  # fmt: skip
        axis.set(title=f"{prior} (last {weights[:, -1, index].mean():.2f})", xlabel="epoch")
    axes[0, 0].set_ylabel("block")
    figure.colorbar(image, ax=axes, label="mean mixing weight")
    return figure


def responses(told: list[dict[str, np.ndarray]]) -> Figure:
    """One small map a block: the operator's answer to one token, averaged over the channels of the bottleneck."""
    maps = [block["response"][-1] for block in told]
    columns = min(6, len(maps))
    rows = -(-len(maps) // columns)
    size = (1.7 * columns, 1.9 * rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for index, (axis, answer) in enumerate(zip(axes.flat, maps, strict=False)):
        limit = float(np.abs(answer).max())
        image = axis.imshow(answer / limit, cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(f"block {index + 1}\nmax {limit:.2f}", fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.7, label="response / its largest value")
    return figure


if __name__ == "__main__":
    sys.exit(main())
