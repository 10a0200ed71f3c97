"""The protocol of a continual experiment: settings are chosen on val200, then the sequence is trained and tested."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from moppa.continual.sequence import Step, average_accuracy, run_sequence
from moppa.continual.strategy import Strategy
from moppa.record.cell import Cell, cell_from_resolved
from moppa.utils import validate
from moppa.utils.config import instantiate
from moppa.utils.errors import SettingError
from moppa.utils.seeds import generator_for

Settings = tuple[tuple[str, Any], ...]  # names with their values
CELL_GROUPS = ("train", "method")  # a setting of these is one of the cells, any other one of the strategy


def run_protocol(
    tune: Sequence[Cell], final: Sequence[Cell], config: Mapping[str, Any], results: Path
) -> Iterator[Step]:
    """Yields the steps of the sequences that choose the settings, if there is a choice, and of the one that counts.

    The choice is the setting with the best average accuracy on val200 after the last task, the first of equals.
    """
    candidates = combinations(config["grid"] or {})
    tried: list[tuple[Fraction, Settings]] = []
    for settings in candidates if len(candidates) > 1 else []:
        accuracy = Fraction(0)
        for step in run_sequence(*with_settings(tune, config, settings), results):
            accuracy = average_accuracy(step.record)
            yield step
        tried.append((accuracy, settings))
    best = max(tried, key=lambda pair: pair[0])[1] if tried else candidates[0]
    search = [{"settings": dict(settings), "accuracy": float(accuracy)} for accuracy, settings in tried]
    cells, chosen, make = with_settings(final, config, best)
    yield from run_sequence(cells, {**chosen, "search": search}, make, results)


def combinations(grid: Mapping[str, Any]) -> list[Settings]:
    """Returns every combination of the values of a grid; the empty one for an empty grid."""
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise SettingError(f"grid.{name}", f"={values!r}: it must be a list of values to choose from")
    lists = [[(name, value) for value in values] for name, values in grid.items()]
    return list(itertools.product(*lists))


def with_settings(cells: Sequence[Cell], config: Mapping[str, Any], settings: Settings) -> tuple[Any, Any, Any]:
    """Returns cells and config with settings in place, and a function that makes the strategy."""
    changed = deepcopy(dict(config))
    own = [(name, value) for name, value in settings if name.partition(".")[0] not in CELL_GROUPS]
    of_cells = [setting for setting in settings if setting not in own]
    for name, value in own:
        set_value(changed, f"continual.strategy.{name}", value)
    node = OmegaConf.create(changed)
    return [with_values(cell, of_cells) for cell in cells], changed, lambda: make_strategy(node)


def with_values(cell: Cell, settings: Sequence[tuple[str, Any]]) -> Cell:
    """Returns a cell with other values of some settings."""
    config = deepcopy(cell.config)
    for name, value in settings:
        set_value(config, name, value)
    return cell_from_resolved(config, weights_sha256=cell.weights_sha256) if settings else cell


def set_value(config: dict[str, Any], dotted: str, value: Any) -> None:
    """Sets an entry of a config that exists."""
    *groups, last = dotted.split(".")
    node: Any = config
    for group in groups:
        node = node.get(group) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node:
        raise SettingError("grid", f": there is no setting {dotted}; name one of the strategy, train or method")
    node[last] = value


def make_strategy(config: Any) -> Strategy:
    """Returns the strategy of a config."""
    return instantiate(config, "continual.strategy")


def in_order(cells: Sequence[Any], order: int) -> list[Any]:
    """Returns the cells in an order: 0 is that of the suite, any other number draws one."""
    validate.integer("orders", order, minimum=0)
    if order == 0:
        return list(cells)
    drawn = torch.randperm(len(cells), generator=generator_for(order, "task order")).tolist()
    return [cells[index] for index in drawn]
