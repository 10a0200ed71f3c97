"""The chart of the accuracy against time and memory. Only measurements of single cells count, and the chart says so."""

from collections.abc import Callable, Sequence

import numpy as np

from moppa.report.hardware import alone_seconds, cell_memory
from moppa.report.load import ValidRecord
from moppa.report.plots.data import PlotData
from moppa.report.plots.encodings import (
    Spec,
    chart_title,
    color_and_shape,
    interval_fields,
    log_ticks,
    round_number,
    tooltip,
)
from moppa.utils.errors import UserError

UNKNOWN = (
    "no row has records on all tasks which say that their cell ran alone (`alone`) or that the memory is its own "
    "(`peak_memory_scope`): run cells one at a time"
)


def cost(data: PlotData) -> Spec:
    """Shows the accuracy against the training time of cells that ran alone, and against the memory of single cells.

    Raises:
        UserError: for published rows, whose cost nobody measured, and if no record has such a measurement.
    """
    if not data.rows:
        raise UserError("published rows have no measured cost")
    seconds = measured(data, alone_seconds, lambda values: float(np.mean(values)))
    memory = measured(data, cell_memory, lambda values: max(values) / 2**30)
    if not seconds and not memory:
        raise UserError(UNKNOWN)
    devices = sorted({str(record["device"]["name"]) for row in data.rows for record in row.records})
    panels, used = [], []
    if seconds:
        panels.append(cost_panel(data, seconds, time_axis(list(seconds.values()))))
        used.append(f"mean time of cells that ran alone ({len(seconds)} of {len(data.rows)} rows)")
    if memory:
        axis = {
            "title": "peak memory of a cell (GiB)",
            "scale": {"zero": False, "padding": 12},
            "axis": {"tickCount": 6},
        }
        panels.append(cost_panel(data, memory, axis))
        used.append(f"largest memory of a cell ({len(memory)} of {len(data.rows)} rows)")
    return {
        "title": chart_title(data, [f"measured on {', '.join(devices)}", *used]),
        "hconcat": panels,
    }


def measured(
    data: PlotData, select: Callable[[Sequence[ValidRecord]], Sequence[float]], summarize: Callable[..., float]
) -> dict[str, float]:
    """Returns a summary of the selected measurements of every row that has some on each task."""
    summaries = {}
    for row in data.rows:
        by_task = [select(row.records_by_task[task]) for task in data.tasks]
        if all(by_task):
            summaries[row.name] = round_number(summarize([value for values in by_task for value in values]))
    return summaries


def time_axis(seconds: Sequence[float]) -> Spec:
    """Returns a logarithmic axis of seconds."""
    times = [value for value in seconds if value > 0]
    ticks = {"values": log_ticks(min(times), max(times))} if times else {}
    return {
        "title": "training time of a cell (seconds)",
        "scale": {"type": "log", "nice": False, "padding": 12} if times else {},
        "axis": {"format": "~g", "labelOverlap": True, **ticks},
    }


def cost_panel(data: PlotData, costs: dict[str, float], x: Spec) -> Spec:
    """Returns a chart of the accuracy against one cost, by row."""
    values = [
        {"row": row, "cost": cost, **interval_fields(data.mean(row, data.tasks).interval())}
        for row, cost in costs.items()
    ]
    y = {
        "field": "mean",
        "type": "quantitative",
        "scale": {"zero": False},
        "title": f"accuracy, {data.mean_label} (%)",
    }
    return {
        "data": {"values": values},
        "width": 270,
        "height": 320,
        "mark": {"type": "point", "filled": True, "size": 80},
        "encoding": {
            "x": {"field": "cost", "type": "quantitative", **x},
            "y": y,
            **color_and_shape(data),
            "tooltip": tooltip("row", "label", "cost"),
        },
    }
