"""Charts of accuracies: against parameters, on each task relative to a baseline, and by group of tasks."""

import json

import numpy as np
import pandas as pd

from moppa.report.plots.data import PlotData
from moppa.report.plots.encodings import (
    COLORS,
    ROW_AXIS,
    Spec,
    chart_title,
    color_and_shape,
    dropdown,
    fade_unselected,
    legend_selection,
    log_ticks,
    round_number,
    tooltip,
)


def against_parameters(data: PlotData) -> Spec:
    """Shows the mean accuracy with its interval against the trainable parameters, and the Pareto front."""
    params = data.params.dropna()
    means = {str(name): data.mean(str(name), data.tasks) for name in params.index}
    points = [
        {
            "row": name,
            "params": params[name],
            "accuracy": round_number(mean.value),
            "low": round_number(mean.low),
            "high": round_number(mean.high),
        }
        for name, mean in means.items()
    ]
    front = pareto_front(params, data.accuracies.loc[params.index].mean(axis=1))
    line = [{"params": params[name], "accuracy": round_number(means[name].value)} for name in front]
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
                "encoding": {"x": x, "y": {"field": "accuracy", **y}},
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
                    "y": {"field": "accuracy", **y},
                    **by_row,
                    "opacity": fade_unselected(),
                    "tooltip": tooltip("row", "params", "accuracy", "low", "high"),
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


def heat_map(data: PlotData) -> Spec:
    """Shows each row's accuracy on each task minus that of a baseline row, which the page lets its reader choose."""
    titles = {column.task: column.title for column in data.columns}
    values = [
        {"row": row, "task": titles[task], "accuracy": round_number(data.accuracies.at[row, task])}
        for row in data.row_names
        for task in data.tasks
    ]
    differences = (data.accuracies - data.accuracies.loc[data.baseline]).drop(index=data.baseline)
    limit = max(1.0, round_number(np.quantile(differences.abs(), 0.95))) if len(differences) else 1.0
    color = {
        "field": "difference",
        "type": "quantitative",
        "title": "points",
        "scale": {"scheme": "purpleorange", "domain": [-limit, limit], "clamp": True},
    }
    text_color = {"condition": {"test": f"abs(datum.difference) > {0.55 * limit}", "value": "white"}, "value": "#111"}
    heading = f"[{json.dumps(data.title)}, 'accuracy minus that of ' + baseline + ', in points']"
    return {
        "title": {**chart_title(data), "text": {"expr": heading}},
        "data": {"values": values},
        "width": {"step": 44 if len(titles) > 1 else 120},
        "height": {"step": 20},
        "params": [dropdown("baseline", "baseline", data.row_names, data.baseline)],
        "transform": [
            {"calculate": "datum.row === baseline ? datum.accuracy : null", "as": "own"},
            {"joinaggregate": [{"op": "max", "field": "own", "as": "baseline_accuracy"}], "groupby": ["task"]},
            {"calculate": "datum.accuracy - datum.baseline_accuracy", "as": "difference"},
            {"calculate": "round(10 * datum.difference) / 10 + 0", "as": "label"},  # + 0: without the sign of -0
        ],
        "encoding": {
            "x": {
                "field": "task",
                "type": "nominal",
                "sort": list(titles.values()),
                "title": None,
                "axis": {"labelAngle": -50, "ticks": False, "domain": False},
            },
            "y": {"field": "row", "type": "nominal", "sort": data.best_first, "title": None, "axis": ROW_AXIS},
        },
        "layer": [
            {
                "mark": "rect",
                "encoding": {
                    "color": color,
                    "tooltip": [*tooltip("row", "task", "accuracy"), {"field": "difference", "format": "+.2f"}],
                },
            },
            {
                "mark": {"type": "text", "fontSize": 10},
                "encoding": {
                    "color": text_color,
                    "text": {"field": "label", "type": "quantitative", "format": "+.1f"},
                },
            },
        ],
    }


def group_bars(data: PlotData) -> Spec:
    """Shows the mean accuracy of each group of tasks, with its interval where predictions are kept."""
    titles = {column.task: column.title for column in data.columns}
    labels = {
        group: f"{group.capitalize()}: {titles[tasks[0]] if len(tasks) == 1 else f'mean of {len(tasks)} tasks'}"
        for group, tasks in data.groups.items()
    }
    values = []
    for group, tasks in data.groups.items():
        for row in data.row_names:
            mean = data.mean(row, tasks)
            numbers = {"mean": mean.value, "low": mean.low, "high": mean.high}
            values.append(
                {"row": row, "group": labels[group], **{name: round_number(x) for name, x in numbers.items()}}
            )
    y = {"field": "row", "type": "nominal", "sort": data.best_first, "title": None, "axis": ROW_AXIS}
    x = {
        "type": "quantitative",
        "scale": {"domain": [0, 100 if max(value["high"] for value in values) < 85 else 115]},
        "title": "accuracy (%)",
        "axis": {"values": [0, 25, 50, 75, 100]},
    }
    palette = {"domain": list(labels.values()), "range": [COLORS[i % len(COLORS)] for i in range(len(labels))]}
    return {
        "title": chart_title(data, "lines: 95% intervals" if data.draws else ""),
        "data": {"values": values},
        "columns": 3,
        "facet": {"field": "group", "type": "nominal", "title": None, "sort": list(labels.values())},
        "spec": {
            "width": 230,
            "height": {"step": 18},
            "layer": [
                {
                    "mark": {"type": "bar", "opacity": 0.6},
                    "encoding": {
                        "y": y,
                        "x": {"field": "mean", **x},
                        "color": {"field": "group", "scale": palette, "legend": None},
                        "tooltip": tooltip("row", "group", "mean", "low", "high"),
                    },
                },
                {
                    "mark": {"type": "rule", "strokeWidth": 1.5},
                    "encoding": {"y": y, "x": {"field": "low", **x}, "x2": {"field": "high"}},
                },
                {
                    "mark": {"type": "text", "align": "left", "dx": 4, "fontSize": 10},
                    "encoding": {
                        "y": y,
                        "x": {"field": "high", **x},
                        "text": {"field": "mean", "type": "quantitative", "format": ".1f"},
                    },
                },
            ],
        },
    }
