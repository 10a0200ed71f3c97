"""Charts of the page about how cells were trained: loss, time and memory, routes."""

import numpy as np

from moppa.report.plots.data import PlotData
from moppa.report.plots.routes import blocks_with_routes
from moppa.report.plots.vega_marks import Spec, click_legend, faded, row_color, row_shape, short
from moppa.utils.errors import UserError


def learning_curves(shown: PlotData) -> Spec:
    """The training loss by epoch, the mean over seeds, on a task that can be chosen."""
    if not shown.rows:
        raise UserError("published rows have no curves")
    values = []
    for row in shown.rows:
        for column in shown.columns:
            losses = [[epoch["loss"] for epoch in one["curve"]] for one in row.setting.cells[column.task]]
            mean = np.mean(losses, axis=0)
            kept = np.unique(np.linspace(0, len(mean) - 1, 40).astype(int)) if len(mean) else []
            values += [
                {"row": row.name, "task": column.title, "epoch": int(i) + 1, "loss": short(mean[i])} for i in kept
            ]
    titles = [column.title for column in shown.columns]
    return {
        "data": {"values": values},
        "width": 520,
        "height": 320,
        "params": [
            {"name": "task", "value": titles[0], "bind": {"input": "select", "options": titles, "name": "task "}},
            *click_legend(),
        ],
        "transform": [{"filter": "datum.task === task"}],
        "mark": {"type": "line", "tooltip": True},
        "encoding": {
            "x": {"field": "epoch", "type": "quantitative"},
            "y": {"field": "loss", "type": "quantitative", "scale": {"type": "log"}, "title": "training loss"},
            "color": row_color(shown),
            "opacity": faded(),
        },
    }


def cost(shown: PlotData) -> Spec:
    """Mean accuracy against training time and memory, as measured."""
    if not shown.rows:
        raise UserError("published rows were not measured")
    values = []
    for row in shown.rows:
        records = [one for task in shown.tasks for one in row.setting.cells[task]]
        values.append(
            {
                "row": row.name,
                "accuracy": short(shown.mean(row.name, shown.tasks).value),
                "seconds": short(float(np.mean([one["seconds"]["train"] for one in records]))),
                "memory": short(max(one["peak_memory_bytes"] for one in records) / 2**30),
                "device": ", ".join(sorted({str(one["device"]["name"]) for one in records})),
            }
        )
    y = {"field": "accuracy", "type": "quantitative", "scale": {"zero": False}, "title": f"accuracy, {shown.about} (%)"}
    tooltip = [{"field": name} for name in ("row", "accuracy", "seconds", "memory", "device")]
    titles = {"seconds": "training, seconds a cell", "memory": "peak memory (GiB)"}
    return {
        "data": {"values": values},
        "hconcat": [
            {
                "width": 250,
                "height": 300,
                "mark": {"type": "point", "filled": True, "size": 80},
                "encoding": {
                    "x": {"field": name, "type": "quantitative", "title": title, "scale": {"zero": False}},
                    "y": y,
                    "color": row_color(shown),
                    "tooltip": tooltip,
                    "shape": row_shape(shown),
                },
            }
            for name, title in titles.items()
        ],
    }


def routes(shown: PlotData) -> Spec:
    """The mixing weights by block and epoch of the first cell of a row whose units told of them."""
    values = []
    for row in shown.rows:
        one = row.setting.records[0]
        try:
            told = blocks_with_routes(one.path)
        except UserError:
            continue
        priors = one["config"]["method"]["attach"]["priors"]
        for block, unit in enumerate(told, start=1):
            epochs = np.unique(np.linspace(0, len(unit["route"]) - 1, 20).astype(int))
            values += [
                {"row": row.name, "block": block, "epoch": int(epoch) + 1, "prior": prior, "weight": short(weight)}
                for epoch in epochs
                for prior, weight in zip(priors, unit["route"][epoch], strict=True)
            ]
    if not values:
        raise UserError("no row has units that route")
    rows = list(dict.fromkeys(value["row"] for value in values))
    return {
        "data": {"values": values},
        "params": [{"name": "routed", "value": rows[0], "bind": {"input": "select", "options": rows, "name": "row "}}],
        "transform": [{"filter": "datum.row === routed"}],
        "facet": {"column": {"field": "prior", "type": "nominal", "title": None}},
        "spec": {
            "width": 220,
            "height": 220,
            "mark": {"type": "rect", "tooltip": True},
            "encoding": {
                "x": {"field": "epoch", "type": "ordinal"},
                "y": {"field": "block", "type": "ordinal", "sort": "descending"},
                "color": {
                    "field": "weight",
                    "type": "quantitative",
                    "title": "mean mixing weight",
                    "scale": {"scheme": "cividis"},
                },
            },
        },
    }
