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
from moppa.report.plots.labels import label_layers, stretch
from moppa.report.plots.scales import fit_scale
from moppa.utils.errors import UserError

WIDTH, HEIGHT = 300, 320  # in pixels, of one panel with a few rows
UNKNOWN = (
    "fewer than half of the rows have records on all tasks which say that their cell ran alone (`alone`) or that the "
    "memory is its own (`peak_memory_scope`): run cells one at a time"
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
        panels.append(cost_panel(data, seconds, "training time of a cell (seconds)", is_log=min(seconds.values()) > 0))
        used.append(f"mean time of cells that ran alone ({len(seconds)} of {len(data.rows)} rows)")
    if memory:
        panels.append(cost_panel(data, memory, "peak memory of a cell (GiB)"))
        used.append(f"largest memory of a cell ({len(memory)} of {len(data.rows)} rows)")
    return {"title": chart_title(data, [f"measured on {', '.join(devices)}", *used]), "hconcat": panels}


def measured(
    data: PlotData, select: Callable[[Sequence[ValidRecord]], Sequence[float]], summarize: Callable[..., float]
) -> dict[str, float]:
    """Returns a summary of the selected measurements of every row that has some on each task; at least half must."""
    summaries = {}
    for row in data.rows:
        by_task = [select(row.records_by_task[task]) for task in data.tasks]
        if all(by_task):
            summaries[row.name] = round_number(summarize([value for values in by_task for value in values]))
    return summaries if 2 * len(summaries) >= len(data.rows) else {}


def cost_panel(data: PlotData, costs: dict[str, float], title: str, *, is_log: bool = False) -> Spec:
    """Returns a chart of the accuracy against one cost, by row."""
    means = {row: data.mean(row, data.tasks).interval() for row in costs}
    values = [{"row": row, "cost": cost, **interval_fields(means[row])} for row, cost in costs.items()]
    x_scale = fit_scale(list(costs.values()), "log" if is_log else "linear")
    y_scale = fit_scale([float(mean.value) for mean in means.values()])
    ticks = {"values": log_ticks(min(costs.values()), max(costs.values()))} if is_log else {"tickCount": 6}
    x = {"title": title, "scale": x_scale.spec, "axis": {"format": "~g", "labelOverlap": True, **ticks}}
    y = {"scale": y_scale.spec, "title": f"accuracy, {data.mean_label} (%)"}
    width, height = (round(stretch(len(values)) * size) for size in (WIDTH, HEIGHT))
    pixels = {
        row: (width * x_scale.share(cost), height * (1 - y_scale.share(float(means[row].value))))
        for row, cost in costs.items()
    }
    points = {
        "data": {"values": values},
        "mark": {"type": "point", "filled": True, "size": 80},
        "encoding": {
            "x": {"field": "cost", "type": "quantitative", **x},
            "y": {"field": "mean", "type": "quantitative", **y},
            **color_and_shape(data),
            "tooltip": tooltip("row", "label", "cost"),
        },
    }
    return {"width": width, "height": height, "layer": [points, *label_layers(pixels, width, height)]}
