"""The plan of a sweep: its cells, their states, their operations, and the hours that they will take on this device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Group
from rich.table import Table
from rich.text import Text

from moppa.backbone.model import compute_weights_sha256
from moppa.record.cell import cell_from_resolved
from moppa.sweep.cost import Throughput, cell_flops
from moppa.sweep.expand import expand_cells
from moppa.sweep.select_hparams import select_hparams
from moppa.sweep.status import State, cell_state
from moppa.sweep.status_table import CellFiles, counts_line, find_cells
from moppa.train.checkpoint import is_from
from moppa.utils.config import instantiate
from moppa.utils.device import device_info, get_device
from moppa.utils.errors import UserError
from moppa.utils.paths import user_path
from moppa.utils.provenance import code_state

UNKNOWN = "unknown"  # stands for the sha256 of weights that are not available
COLUMNS = ("method", "cells", "to run", "PFLOP", "PFLOP to run", "hours", "hours to run", "measured on")


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One cell of a sweep: its resolved config, its files, and a note if these cannot be known yet (else empty)."""

    config: dict[str, Any]
    files: CellFiles
    note: str


def plan_cells(configs: Path, overrides: Sequence[str]) -> list[PlannedCell]:
    """Returns the cells that `python run.py -m OVERRIDES` would run."""
    return [plan_cell(config) for config in expand_cells(configs, overrides)]


def plan_cell(config: dict[str, Any]) -> PlannedCell:
    """Returns the planned cell of a resolved config; with `hparams=best`, with the settings that are best today."""
    backbone = OmegaConf.to_yaml(OmegaConf.create({"backbone": config["backbone"]}))
    weights_sha256, note = find_weights(backbone)
    if config["hparams"] == "best" and not note:
        try:
            selected, _ = select_hparams(OmegaConf.create(config), weights_sha256=weights_sha256)
            config = OmegaConf.to_container(selected)  # type: ignore[assignment]
        except UserError as error:
            note = str(error)
    cell = cell_from_resolved(config, weights_sha256=weights_sha256)
    files = CellFiles(
        suite=config["task"]["suite"],
        backbone=config["backbone"]["name"],
        task=config["task"]["name"],
        method=config["method"]["name"],
        record=cell.record,
        checkpoint=cell.checkpoint,
    )
    return PlannedCell(config=config, files=files, note=note)


@lru_cache
def find_weights(backbone: str) -> tuple[str, str]:
    """Returns the sha256 of a backbone's weights, and a note if they are not available. `backbone` is YAML."""
    try:
        config: Any = OmegaConf.create(backbone)
        return compute_weights_sha256(instantiate(config, "backbone")), ""
    except UserError as error:
        return UNKNOWN, f"the weights are not available, so no record can be found: {error}"


def current_state(cell: PlannedCell, code: Mapping[str, Any]) -> State:
    """Returns the state of a cell for this code, as `code_state` describes it."""
    if cell.note:
        return State(name="missing", note=cell.note)
    state = cell_state(cell.files.record, cell.files.checkpoint, code["versions"])
    if state.name == "resumable" and not is_from(cell.files.checkpoint, code):
        return State(name="missing", note="its checkpoint is from other code and will not be used")
    return state


@dataclass(frozen=True, kw_only=True)
class CellCost:
    """The cost of one cell. Without records of this device, `seconds` is None and `measured_on` is empty."""

    is_left: bool
    flops: float
    seconds: float | None
    measured_on: str


def plan_summary(cells: Sequence[PlannedCell]) -> Group:
    """Returns the counts by state, a table of the costs by method, and what the prediction is based on."""
    if not cells:
        raise UserError("the overrides describe no cell")
    code = code_state()
    states = [current_state(cell, code) for cell in cells]
    device = device_info(get_device(cells[0].config["run"]["device"]))
    throughput = measured_throughput(cells, device)
    costs: dict[str, list[CellCost]] = {}
    for cell, state in zip(cells, states, strict=True):
        costs.setdefault(cell.files.method, []).append(cell_cost(cell, state, throughput))
    notes = dict.fromkeys(state.note for state in states if state.name in ("missing", "failed") and state.note)
    return Group(
        counts_line(states),
        cost_table(costs),
        Text(basis(throughput, device)),
        *(Text(note, style="yellow") for note in list(notes)[:5]),
    )


def cell_cost(cell: PlannedCell, state: State, throughput: Throughput) -> CellCost:
    """Returns the cost of a cell, and whether it is still to be paid."""
    flops = cell_flops(cell.config)
    seconds, measured_on = throughput.predict_seconds(cell.config, flops) or (None, "")
    is_left = not (state.is_finished or state.name == "running")
    return CellCost(is_left=is_left, flops=flops, seconds=seconds, measured_on=measured_on)


def cost_table(costs: Mapping[str, Sequence[CellCost]]) -> Table:
    """Returns a table with a row per method and a row for all."""
    every = [cost for of_method in costs.values() for cost in of_method]
    table = Table(title=f"cost of {len(every)} cells")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("method", "measured on") else "right")
    for method, of_method in costs.items():
        measured_on = sorted({cost.measured_on for cost in of_method if cost.measured_on})
        table.add_row(method, *cost_texts(of_method), ", ".join(measured_on))
    table.add_section()
    table.add_row("all", *cost_texts(every), "")
    return table


def cost_texts(costs: Sequence[CellCost]) -> list[str]:
    """Returns counts, operations and hours of these cells, each of all of them and of those that are left."""
    left = [cost for cost in costs if cost.is_left]
    counts = [str(len(costs)), str(len(left))]
    flops = [f"{sum(cost.flops for cost in group) / 1e15:,.3f}" for group in (costs, left)]
    if any(cost.seconds is None for cost in costs):
        return [*counts, *flops, "?", "?"]
    hours = [f"{sum(cost.seconds or 0.0 for cost in group) / 3600:,.2f}" for group in (costs, left)]
    return [*counts, *flops, *hours]


def measured_throughput(cells: Sequence[PlannedCell], device: Mapping[str, Any]) -> Throughput:
    """Returns the throughput that the records in the sweep's results folder measured on this device."""
    results = user_path(cells[0].config["run"]["results"])
    states = (cell_state(files.record, files.checkpoint, None) for files in find_cells(results))
    return Throughput((state.record for state in states if state.record is not None), device)


def basis(throughput: Throughput, device: Mapping[str, Any]) -> str:
    """Returns a sentence about what the hours are based on."""
    if not throughput.medians:
        return f"No record was measured on this device ({device['name']}): run one cell, and hours can be predicted."
    gflops = [median / 1e9 for median, _ in throughput.medians.values()]
    num_records = sum(number for _, number in throughput.medians.values())
    return (
        f"Hours are for one cell after the other on {device['name']}, predicted from {num_records} records "
        f"at {min(gflops):,.1f} to {max(gflops):,.1f} GFLOP/s, with the threads and the load of those runs. "
        f"Operations are counted from the models, not measured."
    )
