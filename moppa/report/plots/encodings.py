"""Colors, symbols and encodings that the charts share."""

import json
import math
from collections.abc import Sequence
from typing import Any

from moppa.report.estimate import Interval
from moppa.report.plots.data import PlotData
from moppa.report.rounding import round_text

Spec = dict[str, Any]

# Colors that color-blind readers can tell apart (Okabe and Ito, 2008); rows also differ in their symbols or dashes.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2])
NAME_LIMIT = 30  # characters of a name beside a point
ROW_AXIS = {"labelLimit": 520, "ticks": False, "domain": False}
LEGEND = {"title": None, "symbolLimit": 60, "labelLimit": 520, "columns": 1}


def round_number(value: float, digits: int = 6) -> float:
    """Rounds to significant digits, to keep the page small."""
    return float(f"{value:.{digits}g}")


def interval_fields(interval: Interval) -> Spec:
    """Returns the fields of an accuracy: its position, its interval, and the text that is shown."""
    numbers = {"mean": float(interval.value), "low": max(0.0, interval.low), "high": min(100.0, interval.high)}
    return {"label": round_text(interval.value), **{name: round_number(value) for name, value in numbers.items()}}


def log_ticks(smallest: float, largest: float) -> list[float]:
    """Returns the positions of ticks on a logarithmic axis: powers of ten, and between them if there are few."""
    digits = (1, 2, 3, 5) if largest < 100 * smallest else (1,)
    powers = range(math.floor(math.log10(smallest)) - 1, math.ceil(math.log10(largest)) + 1)
    return [
        tick for power in powers for digit in digits if smallest / 2 <= (tick := digit * 10.0**power) <= 2 * largest
    ]


def chart_title(data: PlotData, subtitle: str | Sequence[str] = "") -> Spec:
    """Returns a title with the table's name and, under it, a subtitle of one or several lines."""
    return {"text": data.title, "anchor": "start", "frame": "bounds", **({"subtitle": subtitle} if subtitle else {})}


def color_and_shape(data: PlotData) -> Spec:
    """Returns encodings of the rows by color and symbol; no two of the first 56 rows share both.

    Points are labeled (`point_texts`): with their names, or with numbers, which the legend below the chart explains.
    """
    indices = range(len(data.row_names))
    colors, shapes = ([values[index % len(values)] for index in indices] for values in (COLORS, SYMBOLS))
    texts = point_texts(data.row_names)
    if texts == dict(zip(data.row_names, data.row_names, strict=True)):
        return {"color": row_encoding(data, colors, None), "shape": row_encoding(data, shapes, None)}
    numbered = json.dumps({row: f"{text}  {row}" for row, text in texts.items()})
    legend = {
        **LEGEND,
        "columns": legend_columns(data),
        "orient": "bottom",
        "direction": "vertical",
        "labelExpr": f"({numbered})[datum.label]",
    }
    return {"color": row_encoding(data, colors, legend), "shape": row_encoding(data, shapes, legend)}


def legend_columns(data: PlotData) -> int:
    """Returns how many names fit side by side below a chart."""
    return max(1, 90 // (max(map(len, data.row_names)) + 8))


def point_texts(rows: Sequence[str]) -> dict[str, str]:
    """Returns the texts at the points of a chart: the rows' names if all are short, else their numbers."""
    if max(map(len, rows), default=0) <= NAME_LIMIT:
        return {row: row for row in rows}
    return {row: str(index + 1) for index, row in enumerate(rows)}


def color_and_dash(data: PlotData) -> Spec:
    """Returns encodings of the rows by color and dash pattern; no two of the first 28 rows share both."""
    indices = range(len(data.row_names))
    colors = [COLORS[index % len(COLORS)] for index in indices]
    dashes = [DASHES[index // len(COLORS) % len(DASHES)] for index in indices]
    legend = {
        **LEGEND,
        "columns": legend_columns(data),
        "orient": "bottom",
        "symbolType": "stroke",
        "symbolOpacity": 1,
        "symbolStrokeWidth": 2,
        "symbolSize": 300,
    }
    return {"color": row_encoding(data, colors, legend), "strokeDash": row_encoding(data, dashes, legend)}


def row_encoding(data: PlotData, values: Sequence[Any], legend: Spec | None) -> Spec:
    """Returns an encoding that gives each row its value; encodings with equal legends share one."""
    scale = {"domain": data.row_names, "range": list(values)}
    return {"field": "row", "type": "nominal", "scale": scale, "legend": legend}


def legend_selection() -> list[Spec]:
    """Returns a selection of rows by clicks on their names in the legend."""
    return [{"name": "selected", "select": {"type": "point", "fields": ["row"]}, "bind": "legend"}]


def fade_unselected(opacity: float = 1) -> Spec:
    """Returns an encoding that fades the rows that are not selected in the legend."""
    return {"condition": {"param": "selected", "value": opacity}, "value": 0.1 * opacity}


def dropdown(name: str, label: str, options: Sequence[str], value: str) -> Spec:
    """Returns a parameter that a reader of the page chooses from a list; figures show its initial value."""
    return {"name": name, "value": value, "bind": {"input": "select", "options": list(options), "name": f"{label} "}}


def tooltip(*fields: str) -> list[Spec]:
    """Returns a tooltip that shows fields."""
    return [{"field": name} for name in fields]
