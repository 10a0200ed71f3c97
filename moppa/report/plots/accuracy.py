"""Charts of accuracies: on each task relative to a baseline, and by group of tasks."""

import math

import numpy as np

from moppa.report.columns import Column
from moppa.report.plots.data import PlotData
from moppa.report.plots.encodings import (
    COLORS,
    ROW_AXIS,
    Spec,
    chart_title,
    dropdown,
    interval_fields,
    round_number,
    tooltip,
)
from moppa.report.rounding import round_text

# The size of a difference, rounded as by `round_text`: units are integers, so that a half is exactly a half.
ROUNDED = "floor(abs(10 * (datum.units - datum.baseline_units) / datum.units_per_point) + 0.5) / 10"


def heat_map(data: PlotData) -> Spec:
    """Shows each row's accuracy on each task minus that of a baseline row, which the page lets its reader choose."""
    titles = {column.task: column.title for column in data.columns}
    values = [value for column in data.columns for value in task_values(data, column)]
    differences = (data.accuracies - data.accuracies.loc[data.baseline]).drop(index=data.baseline)
    limit = max(1.0, round_number(np.quantile(differences.abs(), 0.95))) if len(differences) else 1.0
    color = {
        "field": "difference",
        "type": "quantitative",
        "title": "points",
        "scale": {"scheme": "purpleorange", "domain": [-limit, limit], "clamp": True},
    }
    text_color = {"condition": {"test": f"abs(datum.difference) > {0.55 * limit}", "value": "white"}, "value": "#111"}
    return {
        "title": {
            **chart_title(data),
            "subtitle": {"expr": "['accuracy minus that of the baseline, in points; baseline:', baseline]"},
        },
        "data": {"values": values},
        "width": {"step": 44 if len(titles) > 1 else 120},
        "height": {"step": 20},
        "params": [dropdown("baseline", "baseline", data.row_names, data.baseline)],
        "transform": [
            {"calculate": "datum.row === baseline ? datum.units : null", "as": "own"},
            {"joinaggregate": [{"op": "max", "field": "own", "as": "baseline_units"}], "groupby": ["task"]},
            {"calculate": "(datum.units - datum.baseline_units) / datum.units_per_point", "as": "difference"},
            {
                "calculate": f"(datum.difference < 0 ? -{ROUNDED} : {ROUNDED}) + 0",
                "as": "label",
            },  # + 0: without the sign of -0
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
                    "tooltip": [
                        *tooltip("row", "task", "accuracy"),
                        {"field": "label", "format": "+.1f", "title": "difference"},
                    ],
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


def task_values(data: PlotData, column: Column) -> list[Spec]:
    """Returns the accuracies on a task. They count in units that divide all of them, so that differences are exact."""
    by_row = {row: data.cells[row, column.task].value for row in data.row_names}
    scale = math.lcm(*(value.denominator for value in by_row.values()))
    return [
        {
            "row": row,
            "task": column.title,
            "accuracy": round_text(value),
            "units": int(value * scale),
            "units_per_point": scale,
        }
        for row, value in by_row.items()
    ]


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
            values.append({"row": row, "group": labels[group], **interval_fields(data.mean(row, tasks).interval())})
    y = {"field": "row", "type": "nominal", "sort": data.best_first, "title": None, "axis": ROW_AXIS}
    x = {
        "type": "quantitative",
        "scale": {"domain": [0, 100 if max(value["high"] for value in values) < 85 else 115]},
        "title": "accuracy (%)",
        "axis": {"values": [0, 25, 50, 75, 100]},
    }
    palette = {"domain": list(labels.values()), "range": [COLORS[i % len(COLORS)] for i in range(len(labels))]}
    return {
        "title": chart_title(data, "lines: 95% intervals" if data.has_intervals else ""),
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
                        "tooltip": tooltip("row", "group", "label", "low", "high"),
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
                        "text": {"field": "label"},
                    },
                },
            ],
        },
    }
