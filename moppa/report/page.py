"""Writes the page `results/report/index.html` and the chart library beside it; the folder can be opened offline."""

import base64
import gzip
import json
from collections.abc import Sequence
from itertools import compress
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from moppa.report.budget import cell_budget
from moppa.report.estimate import Correctness, estimate_accuracy
from moppa.report.links import class_names, method_links
from moppa.report.load import ValidRecord, read_predictions
from moppa.report.merge_page import page_links
from moppa.report.merging import MergeTable
from moppa.report.plots.charts import page_charts
from moppa.report.plots.data import plot_data, published_plot_data
from moppa.report.plots.training import spread_indices
from moppa.report.published import FLAGS, Published
from moppa.report.render.comparison import interval_text
from moppa.report.render.latex_html import HTML, environment
from moppa.report.render.text import (
    MISSING,
    PUBLISHED_NOTE,
    Header,
    cell_text,
    published_text,
    table_headers,
    table_notes,
)
from moppa.report.rounding import exact, round_text
from moppa.report.table import Row, Table
from moppa.utils.atomic import write_text
from moppa.utils.errors import UserError
from moppa.utils.paths import CONFIGS

TEMPLATES = Path(__file__).parent / "render" / "templates"
SCRIPTS = ("page_state.js", "page_scatter.js", "page.js")
MAX_CLASSES = 20  # of a confusion matrix
MAX_EPOCHS = 32  # of a cell's curve
ALONE: dict[Any, str] = {True: ", alone", False: ", beside other cells"}
SCOPES: dict[Any, str] = {"cell": " of the cell", "process": " of the process"}
NOT_SHOWN = ("seed", "run", "logger")  # parts of a config that do not identify a cell


def write_page(tables: list[Table], folder: Path, *, merged: Sequence[MergeTable] = ()) -> list[Path]:
    """Writes the page, with links to the tables of merged models, and returns the paths of its files.

    The same tables give the same bytes.
    """
    from vl_convert import javascript_bundle

    config_ids: dict[str, int] = {}
    data = {"tables": [table_data(table, config_ids) for table in tables]}
    data["configs"] = [json.loads(config) for config in config_ids]
    page = (
        environment()
        .get_template("page.html")
        .render(
            tables=[table_view(index, table) for index, table in enumerate(tables)],
            first=fullest(tables),
            flags=FLAGS,
            merged=page_links(merged),
            data=packed(data),
            style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
            script="\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS),
        )
    )
    library = f"(function () {{{javascript_bundle('window.vegaEmbed = vegaEmbed;')}}})();\n"
    paths = []
    for name, content in {"index.html": page, "vega.js": library}.items():
        write_text(folder / name, content)
        paths.append(folder / name)
    return paths


def fullest(tables: Sequence[Table]) -> int:
    """Returns the position of the table with the most cells, on which the page opens."""
    sizes = [sum(len(row.records_by_task) for row in table.rows) for table in tables]
    return max(range(len(sizes)), key=lambda index: sizes[index], default=0)


def packed(data: Any) -> str:
    """Returns data as gzipped JSON in base64, which holds no markup and no date."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8"), mtime=0)).decode("ascii")


def table_view(index: int, table: Table) -> dict[str, Any]:
    """Returns the values that the template shows of a table."""
    headers = table_headers(table)
    cells = [[row_cell(row, header) for header in headers] for row in table.rows]
    published = [[published_cell(row, header) for header in headers] for row in table.published]
    filled = [any(cell["text"] != MISSING for cell in column) for column in zip(*cells, *published, strict=True)]
    shown = [header for header, is_filled in zip(headers, filled, strict=True) if is_filled]
    counts = [(group, sum(header.group == group for header in shown)) for group in table.groups]
    return {
        "index": index,
        "table": table,
        "headers": shown,
        "spans": [(group, count) for group, count in counts if count],
        "empty": [header.title for header, is_filled in zip(headers, filled, strict=True) if not is_filled],
        "notes": [note for note in table_notes(table) if note != PUBLISHED_NOTE],
        "rows": [
            (row, method_links(row.method, CONFIGS), list(compress(line, filled)))
            for row, line in zip(table.rows, cells, strict=True)
        ],
        "published_rows": [
            (row, row.flags(table.checkpoint), list(compress(line, filled)))
            for row, line in zip(table.published, published, strict=True)
        ],
    }


def row_cell(row: Row, header: Header) -> dict[str, Any]:
    """Returns a cell's text, the number to sort by, and the task whose records it opens."""
    if header.kind in ("task", "mean"):
        number = row.values[header.key].mean
    elif header.kind == "count":
        number = max(budget.settings_tried for budget in row.budgets.values()) if row.is_tuned else None
    elif header.kind == "size":
        number = getattr(row, header.key)
    else:
        reference = row.references.get(header.key.removesuffix("_deviation"))
        number = reference and (reference.deviation if header.key.endswith("_deviation") else reference.mean)
    return {
        "text": cell_text(row, header, HTML),
        "number": "" if number is None else f"{float(number):.9g}",
        "task": header.key if header.kind == "task" and number is not None else "",
    }


def published_cell(row: Published, header: Header) -> dict[str, str]:
    """Returns the text of a published cell and the number to sort by."""
    text = published_text(row, header)
    try:
        number = f"{(1e6 if header.kind == 'size' else 1) * float(text):.9g}"
    except ValueError:
        number = ""
    return {"text": text, "number": number}


def table_data(table: Table, config_ids: dict[str, int]) -> dict[str, Any]:
    """Returns what the page's script shows of a table: the records of its cells, and the charts."""
    data = plot_data(table)
    charts = page_charts(data) if data else {}
    published = published_plot_data(table.published, table.columns)
    if published:
        charts |= {f"{heading}, published rows": spec for heading, spec in page_charts(published).items()}
    return {
        "title": table.title,
        "columns": {column.task: column.title for column in table.columns},
        "rows": [row.name for row in table.rows],
        "cells": {
            f"{index} {task}": cell_data(records, config_ids)
            for index, row in enumerate(table.rows)
            for task, records in row.records_by_task.items()
        },
        "charts": charts,
    }


def cell_data(records: Sequence[ValidRecord], config_ids: dict[str, int]) -> dict[str, Any]:
    """Returns one cell over its seeds. Sections of a config are numbered in `config_ids`, because cells share them."""
    first = records[0]
    config = {}
    for name, section in first["config"].items():
        if name not in NOT_SHOWN:
            config[name] = config_ids.setdefault(json.dumps(section, sort_keys=True), len(config_ids))
    data: dict[str, Any] = {
        "key": first["key"],
        "path": first.relative_path,
        "config": config,
        "split": {name: first["split"][name] for name in ("verdict", "lineage")},
        "preprocess": first["preprocess"],
        "weights": first["weights"],
        "params": [first["trainable_params"], first["head_params"]],
        "settings": settings_text(records),
        "seeds": [seed_data(record) for record in records],
    }
    return data | prediction_data(records)


def settings_text(records: Sequence[ValidRecord]) -> str:
    """Returns how the settings of a cell were found; a tuned seed says it for all of them."""
    tuned = [record.content["tuned"] for record in records if record.content.get("tuned")]
    if not tuned:
        return "given"
    val200 = round_text(100 * exact(tuned[0]["val200"]))
    return f"best of {cell_budget(records).settings_tried} on val200 ({val200} %)"


def prediction_data(records: Sequence[ValidRecord]) -> dict[str, Any]:
    """Returns the interval of the accuracy and the confusion matrix, summed over seeds: labels by predicted classes.

    Both are left out if predictions are missing or contradict their record, the matrix also if it is too large.
    """
    try:
        by_seed = [predictions for record in records if (predictions := read_predictions(record)) is not None]
    except UserError:
        return {}
    if len(by_seed) < len(records):
        return {}
    correct = Correctness.from_seeds([predicted == labels for predicted, labels in by_seed])
    interval = estimate_accuracy(correct).interval()
    data: dict[str, Any] = {"interval": interval_text(interval)}
    num_classes = records[0]["config"]["task"]["num_classes"]
    if num_classes <= MAX_CLASSES:
        pairs = np.concatenate([num_classes * labels.astype(int) + predicted for predicted, labels in by_seed])
        counts = np.bincount(pairs, minlength=num_classes**2)
        data["confusion"] = counts.reshape(num_classes, num_classes).tolist()
        if names := class_names(records[0]["config"], records[0]["split"]):
            data["classes"] = names
    return data


def seed_data(record: ValidRecord) -> dict[str, Any]:
    """Returns the counts, measurements and learning curve of one seed."""
    losses = [epoch["loss"] for epoch in record["curve"]]
    return {
        "seed": record["seed"],
        "correct": record["correct"],
        "total": record["total"],
        "accuracy": round_text(record.accuracy, 2),
        "time": round_text(record["seconds"]["train"]) + " s" + ALONE.get(record.content.get("alone"), ""),
        "memory": f"{record['peak_memory_bytes'] // 2**20} MiB"
        + SCOPES.get(record.content.get("peak_memory_scope"), ""),
        "device": record["device"]["name"],
        "dtype": record["dtype"],
        "commit": f"{record['git']['commit'] or 'none'}"[:10] + "+" * bool(record["git"]["dirty"]),
        "curve": [
            [index + 1, float(f"{losses[index]:.3g}")]
            for index in spread_indices(len(losses), MAX_EPOCHS)
            if isfinite(losses[index])
        ],
    }
