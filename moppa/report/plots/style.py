"""How pictures are drawn and saved: a style, colors, a legend, the same bytes for the same picture."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moppa.utils.atomic import atomic_write

# Colors that the color-blind tell apart (Okabe and Ito, 2008); rows also differ in their markers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
    "svg.hashsalt": "moppa",  # ids in an SVG come from what is drawn, so that the same picture has the same bytes
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "axes.titlesize": 9,
    "figure.titlesize": 9,
}
PLAIN = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes PATH.png and PATH.svg, without dates."""
    written = []
    for suffix, metadata in PLAIN.items():
        target = path.with_name(f"{path.name}.{suffix}")
        with atomic_write(target) as temporary, mpl.rc_context(STYLE):
            figure.savefig(temporary, format=suffix, dpi=150, metadata=metadata)
        written.append(target)
    return written


def marker_style(index: int) -> dict[str, str]:
    """A color and a marker that no other of the first 56 rows has together."""
    return {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)]}


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **how: object) -> tuple[Figure, np.ndarray]:
    """A figure in inches and its axes as an array; without pyplot, so that no screen is asked for."""
    size = (width, height)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **how)


def legend_beside(figure: Figure, axes: Axes, num_rows: int) -> None:
    """The rows' names to the right of all axes."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8 if num_rows < 20 else 7)
