"""The gain of a row over another by task, with intervals: for a method and its control."""

from dataclasses import replace

from moppa.report.comparison import Difference, baseline_of, differences_from, table_comparer
from moppa.report.plots.encodings import COLORS, Spec, round_number
from moppa.report.rounding import round_text
from moppa.report.table import Table
from moppa.utils.errors import UserError


def gains(table: Table, row: str, control: str) -> dict[str, Difference]:
    """Returns the accuracy of a row minus that of its control by the title of the task, in the order of the columns.

    The p-values are corrected for all of these tasks.

    Raises:
        UserError: if the table has no such row, or if the rows share no task with stored predictions.
    """
    pair = [baseline_of(table, name) for name in (row, control)]
    differences = differences_from(pair[1], replace(table, rows=pair), table_comparer(table))
    found = {
        column.title: differences[pair[0].name, column.task]
        for column in table.columns
        if (pair[0].name, column.task) in differences
    }
    if not found:
        raise UserError(f"{pair[0].name} and {pair[1].name} share no task with stored predictions in {table.name}")
    return found


def gain_markdown(found: dict[str, Difference], row: str, control: str) -> str:
    """Returns the gains as a table."""
    lines = [f"| task | {row} minus {control}, points | 95 % interval | p |", "|---|---|---|---|"]
    for task, gain in found.items():
        low, high = (round_text(limit, signed=True) for limit in (gain.interval.low, gain.interval.high))
        p_value = "" if gain.p_value is None else f"{gain.p_value:.3f}"
        lines.append(f"| {task} | {round_text(gain.interval.value, signed=True)} | {low} to {high} | {p_value} |")
    return "\n".join(lines) + "\n"


def gain_chart(found: dict[str, Difference], row: str, control: str) -> Spec:
    """Shows the gain on each task with its interval, and the line of no gain."""
    values = [
        {
            "task": task,
            "gain": round_number(float(gain.interval.value)),
            "low": round_number(gain.interval.low),
            "high": round_number(gain.interval.high),
            "kind": "significant" if gain.is_significant else "not significant",
        }
        for task, gain in found.items()
    ]
    y = {"field": "task", "type": "nominal", "sort": list(found), "title": None}
    color = {
        "field": "kind",
        "type": "nominal",
        "title": None,
        "scale": {"domain": ["significant", "not significant"], "range": [COLORS[0], COLORS[6]]},
    }
    return {
        "title": {"text": f"{row} minus {control}", "subtitle": "accuracy in points, with 95 % intervals"},
        "data": {"values": values},
        "width": 320,
        "height": {"step": 22},
        "encoding": {"y": y},
        "layer": [
            {
                "mark": {"type": "rule", "color": "#888"},
                "encoding": {"x": {"datum": 0, "type": "quantitative"}, "y": None},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {
                    "x": {"field": "low", "type": "quantitative", "title": "points"},
                    "x2": {"field": "high"},
                    "color": color,
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                "encoding": {"x": {"field": "gain", "type": "quantitative"}, "color": color},
            },
        ],
    }
