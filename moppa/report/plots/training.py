"""The chart of the training loss by epoch."""

from collections.abc import Sequence

import numpy as np

from moppa.report.load import ValidRecord
from moppa.report.plots.data import PlotData
from moppa.report.plots.encodings import (
    Spec,
    chart_title,
    color_and_dash,
    fade_unselected,
    legend_selection,
    round_number,
)
from moppa.utils.errors import UserError

MAX_POINTS = 40  # of a curve


def learning_curves(data: PlotData) -> Spec:
    """Shows the training loss by epoch on each task: the mean over seeds, and their range if there are several.

    Raises:
        UserError: for published rows, which have no curves.
    """
    if not data.rows:
        raise UserError("published rows have no learning curves")
    values = [
        {"row": row.name, "task": column.title, **point}
        for row in data.rows
        for column in data.columns
        for point in curve_points(row.records_by_task[column.task])
    ]
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
        "axis": {"tickCount": 6, "format": "~g", "labelOverlap": True, "grid": False},
    }
    by_row = color_and_dash(data)
    line = {
        "params": legend_selection(),
        "mark": {"type": "line", "tooltip": True, "strokeWidth": 1.5},
        "encoding": {"x": x, "y": {"field": "loss", **y}, **by_row, "opacity": fade_unselected()},
    }
    seed_range = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "area"},
        "encoding": {
            "x": x,
            "y": {"field": "low", **y},
            "y2": {"field": "high"},
            "color": by_row["color"],
            "opacity": fade_unselected(0.15),
        },
    }
    has_ranges = any("low" in value for value in values)
    return {
        "title": chart_title(data, "mean over seeds; bands: smallest to largest" if has_ranges else ""),
        "data": {"values": values},
        "columns": min(4, len(data.columns)),
        "facet": {
            "field": "task",
            "type": "nominal",
            "title": None,
            "sort": [column.title for column in data.columns],
        },
        "spec": {
            "width": 520 if len(data.columns) == 1 else 190,
            "height": 340 if len(data.columns) == 1 else 160,
            "layer": [seed_range, line] if has_ranges else [line],
        },
        "resolve": {"scale": {"y": "independent"}},
    }


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
