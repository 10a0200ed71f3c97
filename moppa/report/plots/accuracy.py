"""Charts of accuracies: on each task relative to a baseline, and by group of tasks."""

import json

import numpy as np

from moppa.report.plots.data import PlotData
from moppa.report.plots.encodings import COLORS, ROW_AXIS, Spec, chart_title, dropdown, round_number, tooltip


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
