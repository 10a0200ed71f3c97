"""The chart of accuracies against trainable parameters."""

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


def against_parameters(data: PlotData) -> Spec:
    """Shows the mean accuracy with its interval against the trainable parameters, and the Pareto front."""
    params = data.params.dropna()
    means = {str(name): data.mean(str(name), data.tasks).interval() for name in params.index}
    points = [{"row": name, "params": params[name], **interval_fields(mean)} for name, mean in means.items()]
    front = pareto_front(params, pd.Series({name: float(mean.value) for name, mean in means.items()}))
    line = [point for point in points if point["row"] in front]
    x = params_axis(params)
    y = {"type": "quantitative", "scale": {"zero": False}, "title": f"accuracy, {data.mean_label} (%)"}
    by_row = color_and_shape(data)
    return {
        "title": chart_title(data, "gray line: Pareto front"),
        "width": 520,
        "height": 340,
        "layer": [
            {
                "data": {"values": line},
                "mark": {"type": "line", "interpolate": "step-after", "color": "#999", "strokeWidth": 1},
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
        ],
    }


def params_axis(params: pd.Series) -> Spec:
    """Returns an axis that is logarithmic from about the smallest positive number on and also holds 0."""
    axis: Spec = {
        "field": "params",
        "type": "quantitative",
        "title": "trainable parameters, without the head",
        "axis": {"labelExpr": "format(datum.value, '~s')", "labelOverlap": True},
        "scale": {"padding": 12, "nice": False},
    }
    positive = params[params > 0]
    if len(positive):
        smallest = float(positive.min())
        axis["axis"]["values"] = [0, *log_ticks(smallest, float(positive.max()))]
        axis["scale"] |= {"type": "symlog", "constant": smallest}
    return axis


def pareto_front(params: pd.Series, accuracy: pd.Series) -> list[str]:
    """Returns the rows that no row with at most as many parameters beats, in order of parameters."""
    order = sorted(params.index, key=lambda name: (params[name], -accuracy[name]))
    front: list[str] = []
    for name in order:
        if not front or accuracy[name] > accuracy[front[-1]]:
            front.append(name)
    return front
