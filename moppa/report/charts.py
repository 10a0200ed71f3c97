"""The pictures of the page, as Vega-Lite specifications with their data in them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from moppa.errors import UserError
from moppa.report.figures import COLOURS, pareto
from moppa.report.ranks import friedman
from moppa.report.routes import blocks_told
from moppa.report.shown import Shown

Spec = dict[str, Any]
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name, which nothing is loaded from
PALETTE = {"range": [colour for colour in COLOURS if colour != "#000000"] + ["#999999"]}
PARAMS = "trainable parameters, without the head"


def charts_of(shown: Shown) -> dict[str, Spec]:
    """Every picture that the rows shown have data for, by its title."""
    makers: dict[str, Callable[[Shown], Spec]] = {
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


def short(value: float) -> float:
    """A number with the digits that a picture can show."""
    return float(f"{value:.4g}")


def row_colour(shown: Shown) -> Spec:
    """One colour a row, with a legend that can be clicked."""
    return {
        "field": "row", "type": "nominal", "scale": PALETTE, "sort": list(shown.accuracies.index),
        "legend": {"title": None, "symbolLimit": 60, "labelLimit": 420, "columns": 1},
    }  # fmt: skip


def click_legend() -> list[Spec]:
    """A click on a name in the legend fades the others."""
    return [{"name": "picked", "select": {"type": "point", "fields": ["row"]}, "bind": "legend"}]


def faded() -> Spec:
    return {"condition": {"param": "picked", "value": 1}, "value": 0.12}


def against_parameters(shown: Shown) -> Spec:
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
    x = {
        "field": "params", "type": "quantitative", "title": PARAMS, "axis": {"format": "~s"},
        "scale": {"type": "symlog", "constant": float(positive.min()) / 4} if len(positive) else {},
    }  # fmt: skip
    y = {"type": "quantitative", "scale": {"zero": False}, "title": f"accuracy, {shown.about} (%)"}
    tooltip = [{"field": name} for name in ("row", "params", "accuracy", "low", "high")]
    return {
        "width": 520, "height": 320,
        "layer": [
            {"data": {"values": line}, "mark": {"type": "line", "interpolate": "step-after", "color": "#999", "strokeWidth": 1},
             "encoding": {"x": x, "y": {"field": "accuracy", **y}}},
            {"data": {"values": points}, "mark": {"type": "rule"}, "encoding": {
                "x": x, "y": {"field": "low", **y}, "y2": {"field": "high"}, "color": row_colour(shown), "opacity": faded()}},
            {"data": {"values": points}, "params": click_legend(), "mark": {"type": "point", "filled": True, "size": 90},
             "encoding": {"x": x, "y": {"field": "accuracy", **y}, "color": row_colour(shown), "opacity": faded(),
                          "shape": {"field": "row", "sort": list(shown.accuracies.index), "legend": None}, "tooltip": tooltip}},
        ],
    }  # fmt: skip


def heat_map(shown: Shown) -> Spec:
    """Rows by tasks, less a row that can be chosen."""
    titles = {column.task: column.title for column in shown.columns}
    values = [
        {"row": row, "task": titles[task], "accuracy": round(float(shown.accuracies.at[row, task]), 2)}
        for row in shown.accuracies.index
        for task in shown.tasks
    ]
    rows = list(shown.accuracies.index)
    wide = len(shown.columns) > 1
    return {
        "data": {"values": values}, "width": {"step": 44 if wide else 120}, "height": {"step": 20},
        "params": [{"name": "base", "value": rows[0], "bind": {"input": "select", "options": rows, "name": "less the row "}}],
        "transform": [
            {"calculate": "datum.row === base ? datum.accuracy : null", "as": "own"},
            {"joinaggregate": [{"op": "max", "field": "own", "as": "base_accuracy"}], "groupby": ["task"]},
            {"calculate": "datum.accuracy - datum.base_accuracy", "as": "ahead"},
        ],
        "encoding": {
            "x": {"field": "task", "type": "nominal", "sort": list(titles.values()), "title": None, "axis": {"labelAngle": -50}},
            "y": {"field": "row", "type": "nominal", "sort": rows, "title": None, "axis": {"labelLimit": 420}},
        },
        "layer": [
            {"mark": "rect", "encoding": {
                "color": {"field": "ahead", "type": "quantitative", "title": "points",
                          "scale": {"scheme": "purpleorange", "reverse": True, "domainMid": 0}},
                "tooltip": [{"field": "row"}, {"field": "task"}, {"field": "accuracy"}, {"field": "ahead", "format": "+.2f"}]}},
            {"mark": {"type": "text", "fontSize": 10, "color": "#111"}, "encoding": {
                "text": {"field": "ahead", "type": "quantitative", "format": "+.1f"}}},
        ],
    }  # fmt: skip


def group_bars(shown: Shown) -> Spec:
    """Each group's mean with its interval."""
    values = []
    for group, tasks in shown.groups.items():
        for row in shown.accuracies.index:
            mean = shown.mean(row, tasks)
            values.append({
                "row": row, "group": group.capitalize(), "mean": short(mean.value), "low": short(mean.low), "high": short(mean.high),
            })  # fmt: skip
    y = {"field": "row", "type": "nominal", "sort": list(shown.accuracies.index), "title": None, "axis": {"labelLimit": 420}}
    x = {"type": "quantitative", "scale": {"domain": [0, 100]}, "title": "accuracy (%)"}
    tooltip = [{"field": name} for name in ("row", "group", "mean", "low", "high")]
    return {
        "data": {"values": values}, "columns": 3,
        "facet": {"field": "group", "type": "nominal", "title": None, "sort": [g.capitalize() for g in shown.groups]},
        "spec": {"width": 230, "height": {"step": 18}, "layer": [
            {"mark": {"type": "bar", "opacity": 0.7}, "encoding": {
                "y": y, "x": {"field": "mean", **x}, "tooltip": tooltip,
                "color": {"field": "group", "scale": PALETTE, "legend": None}}},
            {"mark": {"type": "rule", "strokeWidth": 2}, "encoding": {"y": y, "x": {"field": "low", **x}, "x2": {"field": "high"}}},
        ]},
    }  # fmt: skip


def average_ranks(shown: Shown) -> Spec:
    """Average ranks over the tasks; each row's line reaches as far as rows that Nemenyi's test does not tell from it."""
    found = friedman(shown.accuracies)
    values = [
        {"row": row, "rank": short(rank), "reach": short(rank + found.critical_difference)}
        for row, rank in found.average_ranks.items()
    ]
    y = {"field": "row", "type": "nominal", "sort": list(found.average_ranks.index), "title": None, "axis": {"labelLimit": 420}}
    x = {"type": "quantitative", "title": f"average rank over {found.num_tasks} tasks; the line is as long as the critical "
         f"difference, {found.critical_difference:.2f} (Friedman p {found.p_value:.2g})"}  # fmt: skip
    return {
        "data": {"values": values}, "width": 520, "height": {"step": 18},
        "layer": [
            {"mark": {"type": "rule", "color": COLOURS[1], "strokeWidth": 2},
             "encoding": {"y": y, "x": {"field": "rank", **x}, "x2": {"field": "reach"}}},
            {"mark": {"type": "point", "filled": True, "size": 80, "color": COLOURS[0]},
             "encoding": {"y": y, "x": {"field": "rank", **x}, "tooltip": [{"field": "row"}, {"field": "rank"}]}},
        ],
    }  # fmt: skip


def learning_curves(shown: Shown) -> Spec:
    """The training loss by epoch, the mean over seeds, on a task that can be chosen."""
    if not shown.rows:
        raise UserError("published rows have no curves")
    values = []
    for row in shown.rows:
        for column in shown.columns:
            losses = [[epoch["loss"] for epoch in one["curve"]] for one in row.setting.cells[column.task]]
            mean = np.mean(losses, axis=0)
            kept = np.unique(np.linspace(0, len(mean) - 1, 40).astype(int)) if len(mean) else []
            values += [{"row": row.name, "task": column.title, "epoch": int(i) + 1, "loss": short(mean[i])} for i in kept]
    titles = [column.title for column in shown.columns]
    return {
        "data": {"values": values}, "width": 520, "height": 320,
        "params": [
            {"name": "task", "value": titles[0], "bind": {"input": "select", "options": titles, "name": "task "}},
            *click_legend(),
        ],
        "transform": [{"filter": "datum.task === task"}],
        "mark": {"type": "line", "tooltip": True},
        "encoding": {
            "x": {"field": "epoch", "type": "quantitative"},
            "y": {"field": "loss", "type": "quantitative", "scale": {"type": "log"}, "title": "training loss"},
            "color": row_colour(shown), "opacity": faded(),
        },
    }  # fmt: skip


def cost(shown: Shown) -> Spec:
    """Mean accuracy against training time and memory, as measured."""
    if not shown.rows:
        raise UserError("published rows were not measured")
    values = []
    for row in shown.rows:
        records = [one for task in shown.tasks for one in row.setting.cells[task]]
        values.append({
            "row": row.name, "accuracy": short(shown.mean(row.name, shown.tasks).value),
            "seconds": short(float(np.mean([one["seconds"]["train"] for one in records]))),
            "memory": short(max(one["peak_memory_bytes"] for one in records) / 2**30),
            "device": ", ".join(sorted({str(one["device"]["name"]) for one in records})),
        })  # fmt: skip
    y = {"field": "accuracy", "type": "quantitative", "scale": {"zero": False}, "title": f"accuracy, {shown.about} (%)"}
    tooltip = [{"field": name} for name in ("row", "accuracy", "seconds", "memory", "device")]
    titles = {"seconds": "training, seconds a cell", "memory": "peak memory (GiB)"}
    return {
        "data": {"values": values},
        "hconcat": [
            {"width": 250, "height": 300, "mark": {"type": "point", "filled": True, "size": 80}, "encoding": {
                "x": {"field": name, "type": "quantitative", "title": title, "scale": {"zero": False}}, "y": y,
                "color": row_colour(shown), "tooltip": tooltip,
                "shape": {"field": "row", "sort": list(shown.accuracies.index), "legend": None}}}
            for name, title in titles.items()
        ],
    }  # fmt: skip


def routes(shown: Shown) -> Spec:
    """The mixing weights by block and epoch of the first cell of a row whose units told of them."""
    values = []
    for row in shown.rows:
        one = row.setting.records[0]
        try:
            told = blocks_told(one.path)
        except UserError:
            continue
        priors = one["config"]["method"]["attach"]["priors"]
        for block, unit in enumerate(told, start=1):
            epochs = np.unique(np.linspace(0, len(unit["route"]) - 1, 20).astype(int))
            values += [
                {"row": row.name, "block": block, "epoch": int(epoch) + 1, "prior": prior, "weight": short(weight)}
                for epoch in epochs for prior, weight in zip(priors, unit["route"][epoch], strict=True)
            ]  # fmt: skip
    if not values:
        raise UserError("no row has units that route")
    rows = list(dict.fromkeys(value["row"] for value in values))
    return {
        "data": {"values": values},
        "params": [{"name": "routed", "value": rows[0], "bind": {"input": "select", "options": rows, "name": "row "}}],
        "transform": [{"filter": "datum.row === routed"}],
        "facet": {"column": {"field": "prior", "type": "nominal", "title": None}},
        "spec": {"width": 220, "height": 220, "mark": {"type": "rect", "tooltip": True}, "encoding": {
            "x": {"field": "epoch", "type": "ordinal"}, "y": {"field": "block", "type": "ordinal", "sort": "descending"},
            "color": {"field": "weight", "type": "quantitative", "title": "mean mixing weight", "scale": {"scheme": "cividis"}}}},
    }  # fmt: skip
