"""The critical-difference diagram: average ranks over tasks, and which of them Nemenyi's test does not tell apart.

Source: Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006).
"""

from collections.abc import Sequence

from moppa.report.plots.data import PlotData
from moppa.report.plots.encodings import COLORS, Spec, chart_title, round_number, tooltip
from moppa.report.ranks import friedman
from moppa.report.rounding import round_text


def critical_difference(data: PlotData) -> Spec:
    """Shows the average rank of each row; a bar joins rows whose ranks do not differ significantly.

    Raises:
        UserError: with fewer than 3 rows or 2 tasks.
    """
    test = friedman(data.accuracies)
    names, ranks = list(test.average_ranks.index), [float(rank) for rank in test.average_ranks]
    cliques = indistinct_ranges(ranks, test.critical_difference)
    num_left = -(-len(ranks) // 2)
    right = max(ranks[-1], ranks[0] + test.critical_difference)
    values = []
    for index, (name, rank) in enumerate(zip(names, ranks, strict=True)):
        is_left = index < num_left
        values.append(
            {
                "row": name,
                "rank": round_number(rank),
                "top": 0,
                "level": len(cliques) + 1 + (index if is_left else len(ranks) - 1 - index),
                "edge": round_number(ranks[0] if is_left else right),
                "label": f"{name}  {round_text(rank, 2)}" if is_left else f"{round_text(rank, 2)}  {name}",
            }
        )
    bars = [
        {"from": round_number(ranks[first]), "to": round_number(ranks[last]), "level": level}
        for level, (first, last) in enumerate(cliques, start=1)
    ]
    num_levels = len(cliques) + num_left
    subtitle = (
        f"average rank over {test.num_tasks} tasks (Friedman: p = {test.p_value:.2g}); bars join rows whose ranks "
        f"differ by less than the critical difference, {round_text(test.critical_difference, 2)} (Nemenyi, 5%)"
    )
    margin = 0.5 if ranks[0] == ranks[-1] else 0
    scale = {
        "zero": False,
        "nice": False,
        "domain": [ranks[0] - margin, right + margin],
    }
    diagram = [*elbows(values, num_levels, scale), *labels(values, num_left), *clique_bars(bars), points(values)]
    return {
        "title": chart_title(data, subtitle),
        "spacing": 4,
        "vconcat": [
            {"width": 520, "height": 18, "layer": ruler(ranks[0], test.critical_difference, scale)},
            {"width": 520, "height": 20 * num_levels, "layer": diagram},
        ],
        "config": {"view": {"stroke": None}},
    }


def ruler(start: float, critical_difference: float, scale: Spec) -> list[Spec]:
    """Draws a bar as long as the critical difference, above the axis, with its length."""
    end = start + critical_difference
    x = {"type": "quantitative", "axis": None, "scale": scale}
    data = {"values": [{"from": start, "to": end, "text": f"critical difference {round_text(critical_difference, 2)}"}]}
    ends = {"values": [{"end": start}, {"end": end}]}
    middle = {"y": {"value": 12}}
    return [
        {
            "data": data,
            "mark": {"type": "rule", "strokeWidth": 2, "color": "#666"},
            "encoding": {"x": {"field": "from", **x}, "x2": {"field": "to"}, **middle},
        },
        {
            "data": ends,
            "mark": {"type": "tick", "orient": "vertical", "size": 10, "thickness": 2, "color": "#666"},
            "encoding": {"x": {"field": "end", **x}, **middle},
        },
        {
            "data": data,
            "mark": {"type": "text", "align": "left", "dx": 2, "dy": -9, "fontSize": 11},
            "encoding": {"x": {"field": "from", **x}, "text": {"field": "text"}, **middle},
        },
    ]


def indistinct_ranges(ranks: Sequence[float], critical_difference: float) -> list[tuple[int, int]]:
    """Returns the longest ranges (first, last) of sorted ranks that differ by less than the critical difference."""
    ranges: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(index for index, other in enumerate(ranks) if other - rank < critical_difference)
        if last > first and (not ranges or last > ranges[-1][1]):
            ranges.append((first, last))
    return ranges


def elbows(values: list[Spec], num_levels: int, scale: Spec) -> list[Spec]:
    """Draws the line from each rank on the axis down and then out to its label."""
    x = {
        "field": "rank",
        "type": "quantitative",
        "title": "average rank (1 is best)",
        "axis": {"orient": "top", "grid": False},
        "scale": scale,
    }
    y = {
        "field": "level",
        "type": "quantitative",
        "axis": None,
        "scale": {"domain": [0, num_levels], "reverse": True, "nice": False},
    }
    down = {"x": x, "y": {**y, "field": "top"}, "y2": {"field": "level"}}
    out = {"x": x, "x2": {"field": "edge"}, "y": y}
    return [{"data": {"values": values}, "mark": "rule", "encoding": encoding} for encoding in (out, down)]


def labels(values: list[Spec], num_left: int) -> list[Spec]:
    """Draws the names and ranks of the better half to the left and of the other half to the right."""
    sides = (("right", -6, values[:num_left]), ("left", 6, values[num_left:]))
    return [
        {
            "data": {"values": side},
            "mark": {"type": "text", "align": align, "dx": offset, "fontSize": 11},
            "encoding": {
                "x": {"field": "edge", "type": "quantitative"},
                "y": {"field": "level", "type": "quantitative"},
                "text": {"field": "label"},
            },
        }
        for align, offset, side in sides
    ]


def clique_bars(bars: list[Spec]) -> list[Spec]:
    """Draws the bars that join rows; no layer when every pair of rows differs."""
    encoding = {
        "x": {"field": "from", "type": "quantitative"},
        "x2": {"field": "to"},
        "y": {"field": "level", "type": "quantitative"},
    }
    mark = {"type": "rule", "color": COLORS[1], "strokeWidth": 4, "strokeCap": "round"}
    return [{"data": {"values": bars}, "mark": mark, "encoding": encoding}] if bars else []


def points(values: list[Spec]) -> Spec:
    """Draws a point for each rank on the axis."""
    return {
        "data": {"values": values},
        "mark": {"type": "point", "filled": True, "size": 45, "opacity": 1, "color": COLORS[0]},
        "encoding": {
            "x": {"field": "rank", "type": "quantitative"},
            "y": {"field": "top", "type": "quantitative"},
            "tooltip": tooltip("row", "rank"),
        },
    }
