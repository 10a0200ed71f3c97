"""What the page's charts share: colors, shapes and a legend that can be clicked."""

from typing import Any

from moppa.report.plots.data import PlotData
from moppa.report.plots.style import COLORS

Spec = dict[str, Any]
PALETTE = {"range": [color for color in COLORS if color != "#000000"] + ["#999999"]}


def short(value: float) -> float:
    """A number with the digits that a picture can show."""
    return float(f"{value:.4g}")


def row_color(shown: PlotData) -> Spec:
    """One color a row, with a legend that can be clicked."""
    return {
        "field": "row",
        "type": "nominal",
        "scale": PALETTE,
        "sort": list(shown.accuracies.index),
        "legend": {"title": None, "symbolLimit": 60, "labelLimit": 420, "columns": 1},
    }


def row_shape(shown: PlotData) -> Spec:
    """One shape a row."""
    return {"field": "row", "type": "nominal", "sort": list(shown.accuracies.index), "legend": None}


def click_legend() -> list[Spec]:
    """A click on a name in the legend fades the others."""
    return [{"name": "picked", "select": {"type": "point", "fields": ["row"]}, "bind": "legend"}]


def faded() -> Spec:
    """Rows that were not picked in the legend."""
    return {"condition": {"param": "picked", "value": 1}, "value": 0.12}
