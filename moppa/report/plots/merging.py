"""Charts of merged models: accuracy against the number of merged tasks, and each algorithm on each task."""

from collections.abc import Sequence

from moppa.report.merging import MergeRow, MergeTable
from moppa.report.plots.encodings import COLORS, DASHES, LEGEND, ROW_AXIS, Spec, round_number, tooltip
from moppa.report.rounding import round_text


def merge_charts(table: MergeTable) -> dict[str, Spec]:
    """Returns the charts of a table by name."""
    charts = {"heat-map": heat_map(table)}
    if rows := rows_over_numbers(table):
        charts["number-of-tasks"] = number_chart(table, rows)
    return charts


def rows_over_numbers(table: MergeTable) -> list[MergeRow]:
    """Returns the rows of algorithms that merged several numbers of tasks with the experts of a method."""
    merged = [row for row in table.rows if row.kind == "merged" and row.mean("normalized") is not None]
    places = [(row.method, row.algorithm) for row in merged]
    return [row for row, place in zip(merged, places, strict=True) if places.count(place) > 1]


def title(table: MergeTable, subtitle: str) -> Spec:
    """Returns the title of a chart."""
    return {"text": f"Merged models: {table.suite}, {table.backbone}", "subtitle": subtitle}


def number_chart(table: MergeTable, rows: Sequence[MergeRow]) -> Spec:
    """Shows the average normalized accuracy of algorithms against the number of merged tasks, by method."""
    names = sorted({row.algorithm for row in rows})
    values = [
        {
            "method": row.method,
            "algorithm": row.algorithm,
            "tasks": row.num_tasks,
            "normalized": number(row, "normalized"),
        }
        for row in sorted(rows, key=lambda row: (row.method, row.algorithm, row.num_tasks))
    ]
    colors = [COLORS[index % len(COLORS)] for index in range(len(names))]
    dashes = [DASHES[index // len(COLORS) % len(DASHES)] for index in range(len(names))]
    legend = {**LEGEND, "symbolType": "stroke", "symbolStrokeWidth": 2, "symbolSize": 300}
    series = {"field": "algorithm", "type": "nominal", "legend": legend}
    return {
        "title": title(table, "accuracy divided by that of the expert, mean over the merged tasks"),
        "data": {"values": values},
        "facet": {"field": "method", "type": "nominal", "title": None},
        "columns": 3,
        "spec": {
            "width": 240,
            "height": 260,
            "mark": {"type": "line", "point": {"size": 25}, "strokeWidth": 1.6},
            "encoding": {
                "x": {
                    "field": "tasks",
                    "type": "quantitative",
                    "title": "number of merged tasks",
                    "axis": {"values": sorted({row.num_tasks for row in rows}), "format": "d"},
                    "scale": {"zero": False, "nice": False},
                },
                "y": {
                    "field": "normalized",
                    "type": "quantitative",
                    "title": "normalized accuracy (%)",
                    "scale": {"zero": False},
                },
                "color": {**series, "scale": {"domain": names, "range": colors}},
                "strokeDash": {**series, "scale": {"domain": names, "range": dashes}},
                "tooltip": tooltip("method", "algorithm", "tasks", "normalized"),
            },
        },
    }


def heat_map(table: MergeTable) -> Spec:
    """Shows the accuracy of every algorithm on every task, divided by that of the expert, by method."""
    rows = [row for row in table.complete_rows if row.algorithm != "experts"]
    tasks = rows[0].records[0]["tasks"]
    titles = [table.columns[name] for name in sorted(tasks, key=lambda name: tasks[name]["column"])]
    values = [
        {
            "method": row.method,
            "algorithm": row.algorithm,
            "task": table.columns[name],
            "share": share,
            "label": round_text(share, 1)[:-2],
        }
        for row in rows
        for name in tasks
        for share in [task_share(row, name)]
    ]
    best_first = sorted(
        {row.algorithm for row in rows},
        key=lambda name: -max(float(row.mean("normalized") or 0) for row in rows if row.algorithm == name),
    )
    return {
        "title": title(table, "accuracy in percent of that of the expert"),
        "data": {"values": values},
        "facet": {"field": "method", "type": "nominal", "title": None},
        "columns": 1,
        "spec": {
            "width": {"step": 44},
            "height": {"step": 18},
            "encoding": {
                "x": {"field": "task", "type": "nominal", "sort": titles, "title": None, "axis": {"labelAngle": -50}},
                "y": {"field": "algorithm", "type": "nominal", "sort": best_first, "title": None, "axis": ROW_AXIS},
            },
            "layer": [
                {
                    "mark": "rect",
                    "encoding": {
                        "color": {
                            "field": "share",
                            "type": "quantitative",
                            "title": "% of the expert",
                            "scale": {"scheme": "viridis", "domain": [0, 100], "clamp": True},
                        },
                        "tooltip": tooltip("method", "algorithm", "task", "share"),
                    },
                },
                {
                    "mark": {"type": "text", "fontSize": 10},
                    "encoding": {
                        "text": {"field": "label"},
                        "color": {"condition": {"test": "datum.share > 60", "value": "#111"}, "value": "white"},
                    },
                },
            ],
        },
    }


def task_share(row: MergeRow, task: str) -> float:
    """Returns the accuracy on a task in percent of that of the experts."""
    own = row.mean(task)
    experts = [record.accuracies("expert")[task] for record in row.records]
    return 0.0 if own is None or not sum(experts) else round_number(float(100 * own * len(experts) / sum(experts)), 4)


def number(row: MergeRow, name: str) -> float:
    """Returns the mean of a metric for a chart."""
    return round_number(float(row.mean(name) or 0))
