"""The chart of the training loss by epoch."""

import textwrap
from collections.abc import Sequence

import numpy as np

from moppa.report.load import ValidRecord
from moppa.report.plots.data import PlotData
from moppa.report.plots.encodings import (
    COLORS,
    Spec,
    chart_title,
    color_and_dash,
    fade_unselected,
    legend_selection,
    round_number,
)
from moppa.utils.errors import UserError

MAX_POINTS = 40  # of a curve
MAX_LINES = 7  # in a panel that shows one task; more rows get a panel each
LOSS_TICKS = [digit * 10.0**power for power in range(-6, 4) for digit in (1, 1.5, 2, 3, 5, 7)]


def learning_curves(data: PlotData) -> Spec:
    """Shows the training loss by epoch on each task: the mean over seeds, and their range if there are several.

    Raises:
        UserError: for published rows, which have no curves.
    """
    if not data.rows:
        raise UserError("published rows have no learning curves")
    is_by_row = len(data.columns) == 1 and len(data.rows) > MAX_LINES
    values = [
        {"row": row.name, "panel": wrapped(row.name) if is_by_row else column.title, **point}
        for row in data.rows
        for column in data.columns
        for point in curve_points(row.records_by_task[column.task])
    ]
    panels = list(dict.fromkeys(value["panel"] for value in values))
    has_ranges = any("low" in value for value in values)
    by_row: Spec = {"color": {"value": COLORS[0]}} if is_by_row else color_and_dash(data)
    subtitle = [f"{data.columns[0].title}, a row in each panel"] * is_by_row
    subtitle += ["mean over seeds; bands: smallest to largest"] * has_ranges
    return {
        "title": chart_title(data, subtitle),
        "data": {"values": values},
        "columns": min(4, len(panels)),
        "facet": {
            "field": "panel",
            "type": "nominal",
            "title": None,
            "sort": panels,
            "header": {"labelExpr": "split(datum.value, '\\n')", "labelLimit": 220},
        },
        "spec": {
            "width": 520 if len(panels) == 1 else 190,
            "height": 340 if len(panels) == 1 else 160,
            "layer": curve_layers(by_row, has_ranges=has_ranges, is_selectable=not is_by_row),
        },
        "resolve": {"scale": {"y": "shared" if is_by_row else "independent"}},
    }


def curve_layers(by_row: Spec, *, has_ranges: bool, is_selectable: bool) -> list[Spec]:
    """Returns the layers of the curves and of the ranges over seeds; rows can be selected if there is a legend."""
    ticks = {"tickCount": 6} if is_selectable else {"values": LOSS_TICKS}
    x = {
        "field": "epoch",
        "type": "quantitative",
        "scale": {"zero": False, "nice": False},
        "axis": {"tickMinStep": 1, "format": "d", "tickCount": 5},
    }
    y = {
        "type": "quantitative",
        "scale": {"type": "log", "nice": False, "padding": 6},
        "title": "training loss",
        "axis": {**ticks, "format": "~g", "labelOverlap": True, "grid": False},
    }
    opacity, faint = (fade_unselected(), fade_unselected(0.15)) if is_selectable else ({"value": 1}, {"value": 0.15})
    line = {
        **({"params": legend_selection()} if is_selectable else {}),
        "mark": {"type": "line", "tooltip": True, "strokeWidth": 1.5},
        "encoding": {"x": x, "y": {"field": "loss", **y}, **by_row, "opacity": opacity},
    }
    seed_range = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "area"},
        "encoding": {
            "x": x,
            "y": {"field": "low", **y},
            "y2": {"field": "high"},
            "color": by_row["color"],
            "opacity": faint,
        },
    }
    return [seed_range, line] if has_ranges else [line]


def wrapped(name: str) -> str:
    """Returns a row's name in lines that fit above a panel."""
    return "\n".join(textwrap.wrap(name, 36))


def curve_points(records: Sequence[ValidRecord]) -> list[Spec]:
    """Returns at most `MAX_POINTS` epochs with the mean loss over seeds, and the range of several seeds."""
    losses = np.array([[epoch["loss"] for epoch in record["curve"]] for record in records])  # (seeds, epochs)
    points = []
    for index in spread_indices(losses.shape[1], MAX_POINTS):
        by_seed = losses[:, index]
        if not np.isfinite(by_seed).all() or by_seed.min() <= 0:  # has no place on a logarithmic axis
            continue
        point: Spec = {"epoch": index + 1, "loss": round_number(by_seed.mean(), 4)}
        if len(by_seed) > 1:
            point |= {"low": round_number(by_seed.min(), 4), "high": round_number(by_seed.max(), 4)}
        points.append(point)
    return points


def spread_indices(length: int, limit: int) -> list[int]:
    """Returns at most `limit` evenly spread indices of a sequence, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, limit).astype(int)).tolist() if length else []
