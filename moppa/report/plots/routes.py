"""Charts of mixing weights: how each block weighs its priors over the epochs, and each block's impulse response.

A cell whose method records the diagnostics `route` and `response` keeps them beside its record.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from moppa.record.schema import read_record
from moppa.report.plots.data import PlotData
from moppa.report.plots.encodings import Spec, dropdown, round_number
from moppa.report.plots.training import spread_indices
from moppa.utils.errors import UserError

MAX_EPOCHS = 40


@dataclass(frozen=True, kw_only=True)
class Routes:
    """Mixing weights (blocks, epochs, priors) of a cell and the impulse response (height, width) of each block."""

    priors: list[str]
    weights: np.ndarray
    responses: list[np.ndarray]


def read_routes(path: Path) -> Routes:
    """Returns what the cell of a record learned about its priors, in the order of the blocks.

    Raises:
        UserError: if the file cannot be read or its method mixes no priors.
    """
    record = read_record(path)
    arrays_path = path.with_suffix(".npz")
    blocks: dict[str, dict[str, np.ndarray]] = {}
    try:
        with arrays_path.open("rb") as file, np.load(file) as arrays:
            for key in arrays.files:
                block, _, name = key.rpartition("/")
                if block and name in ("route", "response"):
                    blocks.setdefault(block, {})[name] = arrays[key]
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{arrays_path} cannot be read ({error}); delete it and its record, and run the cell again"
        ) from error
    mixtures = [block for block in blocks.values() if "route" in block]
    if not mixtures:
        raise UserError(f"{path} holds no routes: its method {record['method']} does not mix priors")
    return Routes(
        priors=list(record["config"]["method"]["attach"]["priors"]),
        weights=np.stack([block["route"] for block in mixtures]),
        responses=[block["response"][-1] for block in mixtures],
    )


def routes_by_row(data: PlotData) -> dict[str, Routes]:
    """Returns the routes of the first cell of each row whose method mixes priors.

    Raises:
        UserError: if there is no such row.
    """
    routes = {}
    for row in data.rows:
        try:
            routes[row.name] = read_routes(row.records[0].path)
        except UserError:
            continue
    if not routes:
        raise UserError("no row has a method that mixes priors")
    return routes


def mixing_weights(routes: Mapping[str, Routes], title: str) -> Spec:
    """Shows the mean mixing weight of each prior by block and epoch; the page lets its reader choose among rows."""
    values = []
    num_epochs = max(min(cell.weights.shape[1], MAX_EPOCHS) for cell in routes.values())
    for row, cell in routes.items():
        labels = [
            f"{prior} (last epoch: {weight:.2f})"
            for prior, weight in zip(cell.priors, cell.weights[:, -1].mean(axis=0), strict=True)
        ]
        values += [
            {
                "row": row,
                "block": block + 1,
                "epoch": epoch + 1,
                "prior": label,
                "order": order,
                "weight": round_number(float(cell.weights[block, epoch, order])),
            }
            for block in range(len(cell.weights))
            for epoch in spread_indices(cell.weights.shape[1], MAX_EPOCHS)
            for order, label in enumerate(labels)
        ]
    return {
        **select_row(routes, title, "mean mixing weight of each prior"),
        "data": {"values": values},
        "facet": {"column": {"field": "prior", "type": "nominal", "title": None, "sort": {"field": "order"}}},
        "spec": {
            "width": {"step": max(6, 230 // num_epochs)},
            "height": {"step": 18},
            "mark": {"type": "rect", "tooltip": True},
            "encoding": {
                "x": {"field": "epoch", "type": "ordinal", "axis": {"labelAngle": 0, "labelOverlap": True}},
                "y": {"field": "block", "type": "ordinal", "sort": "descending"},
                "color": {
                    "field": "weight",
                    "type": "quantitative",
                    "title": "weight",
                    "scale": {"scheme": "cividis"},
                },
            },
        },
    }


def impulse_responses(routes: Mapping[str, Routes], title: str) -> Spec:
    """Shows how the operator of each block spreads one token over the grid; the page lets its reader choose a row.

    The maps are means over the channels of the bottleneck, divided by their largest absolute value.
    """
    values = []
    for row, cell in routes.items():
        for block, response in enumerate(cell.responses, start=1):
            largest = float(np.abs(response).max())
            values += [
                {
                    "row": row,
                    "block": block,
                    "label": f"block {block} (max {largest:.2f})",
                    "y": y,
                    "x": x,
                    "response": round(float(response[y, x]) / (largest or 1.0), 3),
                }
                for y, x in np.ndindex(*response.shape)
            ]
    step = max(4, 112 // max(len(response) for cell in routes.values() for response in cell.responses))
    axis = {"type": "ordinal", "axis": None}
    return {
        **select_row(routes, title, "response of each block to one token, divided by its largest value"),
        "data": {"values": values},
        "columns": 6,
        "facet": {"field": "label", "type": "nominal", "title": None, "sort": {"field": "block"}},
        "spec": {
            "width": {"step": step},
            "height": {"step": step},
            "mark": {"type": "rect", "tooltip": True},
            "encoding": {
                "x": {"field": "x", **axis},
                "y": {"field": "y", **axis},
                "color": {
                    "field": "response",
                    "type": "quantitative",
                    "scale": {"scheme": "redblue", "reverse": True, "domain": [-1, 1]},
                },
            },
        },
    }


def select_row(routes: Mapping[str, Routes], title: str, subtitle: str) -> Spec:
    """Returns the title, and the parameter and the filter that show one row of several."""
    spec: Spec = {"title": {"text": title, "subtitle": subtitle, "anchor": "start", "frame": "bounds"}}
    if len(routes) > 1:
        rows = list(routes)
        spec |= {
            "params": [dropdown("shown_row", "row", rows, rows[0])],
            "transform": [{"filter": "datum.row === shown_row"}],
        }
    return spec
