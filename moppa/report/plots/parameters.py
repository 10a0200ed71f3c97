"""The chart of accuracies against trainable parameters."""

from collections.abc import Sequence
from itertools import pairwise, zip_longest

import pandas as pd

from moppa.report.plots.data import PlotData
from moppa.report.plots.encodings import (
    Spec,
    chart_title,
    color_and_shape,
    fade_unselected,
    interval_fields,
    legend_selection,
    log_ticks,
    tooltip,
)
from moppa.report.plots.labels import Point, Segment, label_layers, stretch
from moppa.report.plots.scales import Scale, fit_scale

WIDTH, HEIGHT = 520, 340  # in pixels, of the plot of a few rows without axes and legend


def against_parameters(data: PlotData) -> Spec:
    """Shows the mean accuracy with its interval against the trainable parameters, and the Pareto front."""
    params = data.params.dropna()
    means = {str(name): data.mean(str(name), data.tasks).interval() for name in params.index}
    points = [{"row": name, "params": params[name], **interval_fields(mean)} for name, mean in means.items()]
    front = pareto_front(params, pd.Series({name: float(mean.value) for name, mean in means.items()}))
    line = [point for point in points if point["row"] in front]
    x_scale = params_scale(params)
    y_scale = fit_scale([value for mean in means.values() for value in (mean.low, mean.high)])
    x = {**params_axis(params), "scale": x_scale.spec}
    y = {"type": "quantitative", "scale": y_scale.spec, "title": f"accuracy, {data.mean_label} (%)"}
    by_row = color_and_shape(data)
    width, height = (round(stretch(len(points)) * size) for size in (WIDTH, HEIGHT))
    pixels = {
        name: (width * x_scale.share(float(data.params.at[name])), height * (1 - y_scale.share(float(mean.value))))
        for name, mean in means.items()
    }
    return {
        "title": chart_title(data, "gray line: Pareto front" + "; vertical lines: 95% intervals" * data.has_intervals),
        "width": width,
        "height": height,
        "layer": [
            {
                "data": {"values": line},
                "mark": {"type": "line", "interpolate": "step-after", "color": "#777", "strokeWidth": 2},
                "encoding": {"x": x, "y": {"field": "mean", **y}},
            },
            {
                "data": {"values": points},
                "mark": {"type": "rule"},
                "encoding": {
                    "x": x,
                    "y": {"field": "low", **y},
                    "y2": {"field": "high"},
                    "color": by_row["color"],
                    "opacity": fade_unselected(),
                },
            },
            {
                "data": {"values": points},
                "params": legend_selection(),
                "mark": {"type": "point", "filled": True, "size": 90},
                "encoding": {
                    "x": x,
                    "y": {"field": "mean", **y},
                    **by_row,
                    "opacity": fade_unselected(),
                    "tooltip": tooltip("row", "params", "label", "low", "high"),
                },
            },
            *label_layers(pixels, width, height, drawn=steps([pixels[name] for name in front])),
        ],
    }


def steps(points: Sequence[Point]) -> list[Segment]:
    """Returns the segments of a line that goes from each point to the right, then up or down to the next."""
    corners = [(following[0], point[1]) for point, following in pairwise(points)]
    line = [place for pair in zip_longest(points, corners) for place in pair if place is not None]
    return list(pairwise(line))


def params_scale(params: pd.Series) -> Scale:
    """Returns a scale that is logarithmic from about the smallest positive number on and also holds 0."""
    positive = params[params > 0]
    if not len(positive):
        return fit_scale(list(params))
    return fit_scale(list(params), "symlog", constant=float(positive.min()))


def params_axis(params: pd.Series) -> Spec:
    """Returns the axis of the trainable parameters."""
    positive = params[params > 0]
    ticks = {"values": [0, *log_ticks(float(positive.min()), float(positive.max()))]} if len(positive) else {}
    return {
        "field": "params",
        "type": "quantitative",
        "title": "trainable parameters, without the head",
        "axis": {"labelExpr": "format(datum.value, '~s')", "labelOverlap": True, **ticks},
    }


def pareto_front(params: pd.Series, accuracy: pd.Series) -> list[str]:
    """Returns the rows that no row with at most as many parameters beats, in order of parameters."""
    order = sorted(params.index, key=lambda name: (params[name], -accuracy[name]))
    front: list[str] = []
    for name in order:
        if not front or accuracy[name] > accuracy[front[-1]]:
            front.append(name)
    return front
