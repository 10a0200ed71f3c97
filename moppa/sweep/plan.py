"""A plan before the bill: the cells of a sweep, how far each is, their operations and the hours that they will take."""

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
from moppa.utils.provenance import code_state

UNKNOWN = "unknown"  # in place of the weights' sha256 where they are not at hand


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One cell of a sweep: its resolved config, its files, and why they cannot be known yet where they cannot."""

    config: dict[str, Any]
    entry: CellFiles
    note: str


def plan_cells(configs: Path, words: Sequence[str]) -> list[PlannedCell]:
    """The cells that `python run.py -m WORDS` would run."""
    return [plan_cell(config) for config in expand_cells(configs, words)]


def plan_cell(config: dict[str, Any]) -> PlannedCell:
    """One of them; under `hparams=best` with the settings that would be taken now."""
    digest, note = digest_of(OmegaConf.to_yaml(OmegaConf.create({"backbone": config["backbone"]})))
    if config["hparams"] == "best" and not note:
        try:
            taken, _ = select_hparams(OmegaConf.create(config), weights_sha256=digest)
            config = OmegaConf.to_container(taken)  # type: ignore[assignment]
        except UserError as error:
            note = str(error)
    cell = cell_from_resolved(config, weights_sha256=digest)
    entry = CellFiles(
        suite=config["task"]["suite"],
        backbone=config["backbone"]["name"],
        task=config["task"]["name"],
        method=config["method"]["name"],
        record=cell.record,
        checkpoint=cell.checkpoint,
    )
    return PlannedCell(config=config, entry=entry, note=note)


@lru_cache
def digest_of(backbone: str) -> tuple[str, str]:
    """The sha256 of a backbone's weights, and why it is not known where they are not at hand."""
    try:
        return compute_weights_sha256(instantiate(OmegaConf.create(backbone), "backbone")), ""
    except UserError as error:
        return UNKNOWN, f"the weights are not at hand, so no record can be found: {error}"


def current_state(one: PlannedCell, code: Mapping[str, Any]) -> State:
    """How far a cell is, for the code and the versions at hand."""
    if one.note:
        return State(name="missing", note=one.note)
    state = cell_state(one.entry.record, one.entry.checkpoint, code["versions"])
    if state.name == "resumable" and not is_from(one.entry.checkpoint, code):
        return State(name="missing", note="its checkpoint is of other code and will not be used")
    return state


def plan_summary(cells: Sequence[PlannedCell]) -> Group:
    """The counts, a table of the costs by method, and what the prediction rests on."""
    if not cells:
        raise UserError("the words mean no cell")
    code = code_state()
    states = [(one, current_state(one, code)) for one in cells]
    device = device_info(get_device(cells[0].config["run"]["device"]))
    rates = rates_of(cells, device)
    table = Table(title=f"what {len(cells)} cells cost")
    for column in ("method", "cells", "to run", "PFLOP", "of these to run", "hours", "hours to run", "measured on"):
        table.add_column(column, justify="left" if column in ("method", "measured on") else "right")
    by_method: dict[str, list[tuple[PlannedCell, State]]] = {}
    for one, state in states:
        by_method.setdefault(one.entry.method, []).append((one, state))
    rows = {method: costs_of(found, rates) for method, found in by_method.items()}
    for method, row in rows.items():
        table.add_row(method, *row.texts(), row.measured)
    table.add_section()
    table.add_row("all", *sum_of(list(rows.values())).texts(), "")
    notes = dict.fromkeys(state.note for _, state in states if state.name in ("missing", "failed") and state.note)
    return Group(
        counts_line(states),
        table,
        Text(basis(rates, device)),
        *(Text(note, style="yellow") for note in list(notes)[:5]),
    )


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a group of cells costs; hours are None where no record of this device tells."""

    num_cells: int
    num_left: int
    flops: float
    flops_left: float
    hours: float | None
    hours_left: float | None
    measured: str

    def texts(self) -> list[str]:
        """The figures as a table shows them."""
        hours = ("?" if value is None else f"{value:,.2f}" for value in (self.hours, self.hours_left))
        flops = (f"{value / 1e15:,.3f}" for value in (self.flops, self.flops_left))
        return [str(self.num_cells), str(self.num_left), *flops, *hours]


def costs_of(found: Sequence[tuple[PlannedCell, State]], rates: Throughput) -> Costs:
    """The costs of one method's cells."""
    flops = [cell_flops(one.config) for one, _ in found]
    seconds = [rates.seconds_of(one.config, each) for (one, _), each in zip(found, flops, strict=True)]
    left = [state.name not in ("done", "stale", "running") for _, state in found]
    known = [each[0] for each in seconds if each]
    return Costs(
        num_cells=len(found),
        num_left=sum(left),
        flops=sum(flops),
        flops_left=sum(each for each, is_left in zip(flops, left, strict=True) if is_left),
        hours=sum(known) / 3600 if len(known) == len(found) else None,
        hours_left=sum(each for each, is_left in zip(known, left, strict=True) if is_left) / 3600
        if len(known) == len(found)
        else None,
        measured=", ".join(sorted({each[1] for each in seconds if each})),
    )


def sum_of(rows: Sequence[Costs]) -> Costs:
    """All rows together."""
    hours = [row.hours for row in rows if row.hours is not None]
    hours_left = [row.hours_left for row in rows if row.hours_left is not None]
    return Costs(
        num_cells=sum(row.num_cells for row in rows),
        num_left=sum(row.num_left for row in rows),
        flops=sum(row.flops for row in rows),
        flops_left=sum(row.flops_left for row in rows),
        hours=sum(hours) if len(hours) == len(rows) else None,
        hours_left=sum(hours_left) if len(hours) == len(rows) else None,
        measured="",
    )


def rates_of(cells: Sequence[PlannedCell], device: Mapping[str, Any]) -> Throughput:
    """The rates that the records of the sweep's own results folder measured."""
    results = Path(cells[0].config["run"]["results"]).expanduser()
    records = (cell_state(entry.record, entry.checkpoint, None).record for entry in find_cells(results))
    return Throughput((one for one in records if one is not None), device)


def basis(rates: Throughput, device: Mapping[str, Any]) -> str:
    """What the hours rest on."""
    if not rates.measured:
        return f"No record was measured on this device ({device['name']}): run one cell, and hours can be predicted."
    medians = [median / 1e9 for median, _ in rates.measured.values()]
    num_records = sum(number for _, number in rates.measured.values())
    return (
        f"Hours of one cell after the other on {device['name']}, from {num_records} records "
        f"at {min(medians):,.1f} to {max(medians):,.1f} GFLOP/s, each with the threads and the load that it had. "
        f"Operations are counted from the models, not measured."
    )
