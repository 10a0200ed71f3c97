"""What a cell's units told of themselves: mixing weights over depth and epochs, and each block's impulse response."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from matplotlib.figure import Figure

from moppa.record.schema import read_record
from moppa.utils.errors import UserError


def blocks_with_routes(path: Path) -> list[dict[str, np.ndarray]]:
    """For every block in depth order: route (epochs, priors), response (1, H, W) and what else its unit told."""
    read_record(path)
    blocks: dict[str, dict[str, np.ndarray]] = {}
    kept = path.with_suffix(".npz")
    try:
        with kept.open("rb") as file, np.load(file) as arrays:
            for key in arrays.files:
                block, _, name = key.rpartition("/")
                if block:
                    blocks.setdefault(block, {})[name] = arrays[key]
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"{kept} cannot be read ({error}); delete it and its record, and run the cell again") from error
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
