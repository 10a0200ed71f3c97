"""The pictures of the page, as Vega-Lite specifications with their data in them."""

from collections.abc import Callable

from moppa.report.plots.data import PlotData
from moppa.report.plots.static import pareto
from moppa.report.plots.style import COLORS
from moppa.report.plots.vega_marks import PALETTE, Spec, click_legend, faded, row_color, row_shape, short
from moppa.report.plots.vega_training import cost, learning_curves, routes
from moppa.report.ranks import friedman
from moppa.utils.errors import UserError

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name, which nothing is loaded from
PARAMS = "trainable parameters, without the head"


def charts_of(shown: PlotData) -> dict[str, Spec]:
    """Every picture that the rows shown have data for, by its title."""
    makers: dict[str, Callable[[PlotData], Spec]] = {
        "Accuracy against parameters": against_parameters,
        "Every task, against a row": heat_map,
        "Groups of tasks": group_bars,
        "Average ranks": average_ranks,
        "Learning curves": learning_curves,
        "Time and memory": cost,
        "Routes": routes,
    }
    found = {}
    for title, make in makers.items():
        try:
            found[title] = {"$schema": SCHEMA, "background": "transparent", **make(shown)}
        except UserError:
            continue
    return found


def against_parameters(shown: PlotData) -> Spec:
    """Mean accuracy with its interval against parameters, and the Pareto front."""
    params = shown.params.dropna()
    means = {name: shown.mean(name, shown.tasks) for name in params.index}
    points = [
        {"row": name, "params": params[name], "accuracy": short(m.value), "low": short(m.low), "high": short(m.high)}
        for name, m in means.items()
    ]
    front = pareto(params, shown.accuracies.loc[params.index].mean(axis=1))
    line = [{"params": params[name], "accuracy": short(means[name].value)} for name in front]
    positive = params[params > 0]
    ticks = [0] + [digit * 10**power for power in range(2, 10) for digit in (1, 3)]
    x = {
        "field": "params",
        "type": "quantitative",
        "title": PARAMS,
        "axis": {"labelExpr": "format(datum.value, '~s')", "values": ticks},
        "scale": {"type": "symlog", "constant": float(positive.min()) / 4} if len(positive) else {},
    }
    y = {"type": "quantitative", "scale": {"zero": False}, "title": f"accuracy, {shown.about} (%)"}
    tooltip = [{"field": name} for name in ("row", "params", "accuracy", "low", "high")]
    return {
        "width": 520,
        "height": 320,
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
                    "color": row_color(shown),
                    "opacity": faded(),
                },
            },
            {
                "data": {"values": points},
                "params": click_legend(),
                "mark": {"type": "point", "filled": True, "size": 90},
                "encoding": {
                    "x": x,
                    "y": {"field": "accuracy", **y},
                    "color": row_color(shown),
                    "opacity": faded(),
                    "shape": row_shape(shown),
                    "tooltip": tooltip,
                },
            },
        ],
    }


def heat_map(shown: PlotData) -> Spec:
    """Rows by tasks, less a row that can be chosen."""
    titles = {column.task: column.title for column in shown.columns}
    values = [
        {"row": row, "task": titles[task], "accuracy": round(float(shown.accuracies.at[row, task]), 2)}
        for row in shown.accuracies.index
        for task in shown.tasks
    ]
    rows = list(shown.accuracies.index)
    wide = len(shown.columns) > 1
    spread = shown.accuracies.max() - shown.accuracies.min()
    limit = short(max(1.0, float(spread.quantile(0.8))))
    return {
        "data": {"values": values},
        "width": {"step": 44 if wide else 120},
        "height": {"step": 20},
        "params": [
            {"name": "base", "value": rows[0], "bind": {"input": "select", "options": rows, "name": "less the row "}}
        ],
        "transform": [
            {"calculate": "datum.row === base ? datum.accuracy : null", "as": "own"},
            {"joinaggregate": [{"op": "max", "field": "own", "as": "base_accuracy"}], "groupby": ["task"]},
            {"calculate": "datum.accuracy - datum.base_accuracy", "as": "ahead"},
        ],
        "encoding": {
            "x": {
                "field": "task",
                "type": "nominal",
                "sort": list(titles.values()),
                "title": None,
                "axis": {"labelAngle": -50},
            },
            "y": {"field": "row", "type": "nominal", "sort": rows, "title": None, "axis": {"labelLimit": 420}},
        },
        "layer": [
            {
                "mark": "rect",
                "encoding": {
                    "color": {
                        "field": "ahead",
                        "type": "quantitative",
                        "title": "points",
                        "scale": {"scheme": "purpleorange", "domain": [-limit, limit], "clamp": True},
                    },
                    "tooltip": [
                        {"field": "row"},
                        {"field": "task"},
                        {"field": "accuracy"},
                        {"field": "ahead", "format": "+.2f"},
                    ],
                },
            },
            {
                "mark": {"type": "text", "fontSize": 10},
                "encoding": {
                    "color": {
                        "condition": {"test": f"abs(datum.ahead) > {0.55 * limit}", "value": "white"},
                        "value": "#111",
                    },
                    "text": {"field": "ahead", "type": "quantitative", "format": "+.1f"},
                },
            },
        ],
    }


def group_bars(shown: PlotData) -> Spec:
    """Each group's mean with its interval."""
    values = []
    for group, tasks in shown.groups.items():
        for row in shown.accuracies.index:
            mean = shown.mean(row, tasks)
            values.append(
                {
                    "row": row,
                    "group": group.capitalize(),
                    "mean": short(mean.value),
                    "low": short(mean.low),
                    "high": short(mean.high),
                }
            )
    best_first = list(shown.accuracies.mean(axis=1).sort_values(ascending=False).index)
    y = {"field": "row", "type": "nominal", "sort": best_first, "title": None, "axis": {"labelLimit": 420}}
    x = {"type": "quantitative", "scale": {"domain": [0, 100]}, "title": "accuracy (%)"}
    tooltip = [{"field": name} for name in ("row", "group", "mean", "low", "high")]
    return {
        "data": {"values": values},
        "columns": 3,
        "facet": {"field": "group", "type": "nominal", "title": None, "sort": [g.capitalize() for g in shown.groups]},
        "spec": {
            "width": 230,
            "height": {"step": 18},
            "layer": [
                {
                    "mark": {"type": "bar", "opacity": 0.7},
                    "encoding": {
                        "y": y,
                        "x": {"field": "mean", **x},
                        "tooltip": tooltip,
                        "color": {"field": "group", "scale": PALETTE, "legend": None},
                    },
                },
                {
                    "mark": {"type": "rule", "strokeWidth": 2},
                    "encoding": {"y": y, "x": {"field": "low", **x}, "x2": {"field": "high"}},
                },
            ],
        },
    }


def average_ranks(shown: PlotData) -> Spec:
    """Average ranks over the tasks; a row's line reaches as far as rows that Nemenyi's test does not tell from it."""
    found = friedman(shown.accuracies)
    values = [
        {"row": row, "rank": short(rank), "reach": short(rank + found.critical_difference)}
        for row, rank in found.average_ranks.items()
    ]
    y = {
        "field": "row",
        "type": "nominal",
        "sort": list(found.average_ranks.index),
        "title": None,
        "axis": {"labelLimit": 420},
    }
    title = (
        f"average rank over {found.num_tasks} tasks; the line is as long as the critical difference, "
        f"{found.critical_difference:.2f} (Friedman p {found.p_value:.2g})"
    )
    x = {"type": "quantitative", "title": title}
    return {
        "data": {"values": values},
        "width": 520,
        "height": {"step": 18},
        "layer": [
            {
                "mark": {"type": "rule", "color": COLORS[1], "strokeWidth": 2},
                "encoding": {"y": y, "x": {"field": "rank", **x}, "x2": {"field": "reach"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80, "color": COLORS[0]},
                "encoding": {"y": y, "x": {"field": "rank", **x}, "tooltip": [{"field": "row"}, {"field": "rank"}]},
            },
        ],
    }
