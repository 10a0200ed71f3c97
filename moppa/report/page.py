"""The page: `results/report/index.html` and what it needs beside it, to be opened from a folder without a network."""

import base64
import gzip
import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from moppa.report import bootstrap
from moppa.report.load import ValidRecord, read_predictions
from moppa.report.plots.data import plot_data, published_plot_data
from moppa.report.plots.vega import charts_of
from moppa.report.published import FLAGS, Published
from moppa.report.render.comparison import seed_for
from moppa.report.render.latex_html import HTML, environment
from moppa.report.render.markdown import Head, caption, heads_of, notes_of, published_text, text
from moppa.report.significance import SEED
from moppa.report.table import Row, Table
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError

MOST_CLASSES = 20
MOST_EPOCHS = 32


def write_page(tables: list[Table], folder: Path) -> list[Path]:
    """Writes the page and the charts' library; the same tables give the same bytes."""
    from vl_convert import javascript_bundle

    template = environment().get_template("page.html")
    parts: dict[str, int] = {}
    data = {"tables": [table_data(table, parts) for table in tables]}
    data["parts"] = [json.loads(part) for part in parts]
    index = template.render(
        tables=[view_of(index, table) for index, table in enumerate(tables)],
        flags=FLAGS,
        data=packed(data),
        style=asset("page.css"),
        script=asset("page.js"),
    )
    library = f"(function () {{{javascript_bundle('window.vegaEmbed = vegaEmbed;')}}})();\n"
    written = []
    for name, content in {"index.html": index, "vega.js": library}.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(content)
        written.append(folder / name)
    return written


def asset(name: str) -> str:
    """A file of this package that goes into the page as it is."""
    return (Path(__file__).parent / "render" / "templates" / name).read_text()


def packed(data: Any) -> str:
    """JSON, gzipped without a date, in base64: text that no page can take for markup."""
    plain = json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(plain, mtime=0)).decode()


def view_of(index: int, table: Table) -> dict[str, Any]:
    """What the template shows of a table."""
    heads = heads_of(table)
    return {
        "index": index,
        "table": table,
        "heads": heads,
        "caption": caption(table),
        "notes": [note for note in notes_of(table) if not note.startswith("In italics")],
        "ours": [(row, [our_cell(row, head) for head in heads]) for row in table.rows],
        "published": [
            (row, row.flags(table.checkpoint), [their_cell(row, head) for head in heads]) for row in table.published
        ],
    }


def our_cell(row: Row, head: Head) -> dict[str, Any]:
    """Text, the number that is sorted by, and whether a record can be opened."""
    shown = text(row, head, HTML)
    if head.kind in ("task", "mean"):
        number = row.values[head.key].mean
    elif head.kind == "size":
        number = getattr(row, head.key)
    else:
        beside = row.beside.get(head.key.removesuffix("_deviation"))
        number = beside and (beside.deviation if head.key.endswith("_deviation") else beside.mean)
    task = head.key if head.kind == "task" and number is not None else ""
    return {"text": shown, "number": "" if number is None else f"{number:.6g}", "task": task}


def their_cell(row: Published, head: Head) -> dict[str, str]:
    """Text and the number that is sorted by."""
    shown = published_text(row, head)
    try:
        number = f"{1e6 * float(shown):.6g}" if head.kind == "size" else f"{float(shown):.6g}"
    except ValueError:
        number = ""
    return {"text": shown, "number": number}


def table_data(table: Table, parts: dict[str, int]) -> dict[str, Any]:
    """What a script shows of a table: its cells' records, and its pictures."""
    shown = plot_data(table)
    charts = charts_of(shown) if shown is not None else {}
    theirs = published_plot_data(table.published, table.columns)
    charts |= {f"{title}: {theirs.title}": spec for title, spec in charts_of(theirs).items()} if theirs else {}
    return {
        "title": table.title,
        "columns": {column.task: column.title for column in table.columns},
        "rows": [row.name for row in table.rows],
        "cells": {f"{row} {task}": cell for row, task, cell in cells_of(table, parts)},
        "charts": charts,
    }


def cells_of(table: Table, parts: dict[str, int]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Every cell: the row's index, the task, and what its records say."""
    for index, row in enumerate(table.rows):
        for task, records in row.setting.cells.items():
            yield index, task, cell_data(records, task, parts)


def cell_data(records: list[ValidRecord], task: str, parts: dict[str, int]) -> dict[str, Any]:
    """One cell over its seeds. Parts of the config that cells share are kept once, in `parts`."""
    first = records[0]
    config = {name: value for name, value in first["config"].items() if name not in ("seed", "run", "logger")}
    numbered = {}
    for name, part in config.items():
        numbered[name] = parts.setdefault(json.dumps(part, sort_keys=True), len(parts))
    right, confusion = answers_data(records)
    found: dict[str, Any] = {
        "key": first["key"],
        "place": first.place,
        "config": numbered,
        "split": {name: first["split"][name] for name in ("verdict", "lineage")},
        "preprocess": first["preprocess"],
        "weights": first["weights"],
        "params": [first["trainable_params"], first["head_params"]],
        "tuned": first.content.get("tuned"),
        "seeds": [seed_data(one) for one in records],
    }
    if right is not None:
        interval = bootstrap.accuracy_interval(right, seed=seed_for(task, SEED))
        found["interval"] = [round(interval.low, 2), round(interval.high, 2)]
    if confusion is not None:
        found["confusion"] = confusion.tolist()
    return found


def answers_data(records: list[ValidRecord]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Which images were right, (seeds, images), and the confusion matrix over the seeds (label by predicted class).

    None where predictions are missing or false, and where there are more classes than a matrix can be read of.
    """
    try:
        kept = [answers for one in records if (answers := read_predictions(one)) is not None]
    except UserError:
        return None, None
    if len(kept) < len(records):
        return None, None
    right = np.stack([predicted == label for predicted, label in kept])
    classes = records[0]["config"]["task"]["num_classes"]
    if classes > MOST_CLASSES:
        return right, None
    codes = np.concatenate([classes * label.astype(int) + predicted for predicted, label in kept])
    return right, np.bincount(codes, minlength=classes**2).reshape(classes, classes)


def seed_data(one: ValidRecord) -> dict[str, Any]:
    """One seed's counts, measures and curve, with at most `MOST_EPOCHS` points."""
    losses = [epoch["loss"] for epoch in one["curve"]]
    kept = np.unique(np.linspace(0, len(losses) - 1, MOST_EPOCHS).astype(int)) if losses else []
    return {
        "seed": one["seed"],
        "correct": one["correct"],
        "total": one["total"],
        "seconds": round(one["seconds"]["train"], 1),
        "memory": round(one["peak_memory_bytes"] / 2**20),
        "device": one["device"]["name"],
        "dtype": one["dtype"],
        "commit": f"{one['git']['commit'] or 'none'}"[:10] + "+" * bool(one["git"]["dirty"]),
        "curve": [[int(i) + 1, float(f"{losses[i]:.3g}")] for i in kept if isfinite(losses[i])],
    }
