"""The cells that a merge needs: for each method and seed, those of protocol=tune and of protocol=final on all tasks."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from moppa.backbone.model import compute_weights_sha256
from moppa.record.cell import Cell, cell_from_resolved
from moppa.record.trained_file import trained_path
from moppa.sweep.expand import expand_cells
from moppa.sweep.select_hparams import select_hparams
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from moppa.utils.flatten import flatten
from moppa.utils.paths import IS_CHECKOUT

Groups = list[tuple[list[Cell], list[Cell]]]
SELECTED = ("train", "method")


def merge_groups(configs: Path, words: Sequence[str], *, experts: str | None) -> tuple[Groups, list[dict[str, Any]]]:
    """Returns the groups of cells, each in the order of the suite, and the resolved configs as the words give them.

    `experts` is the results folder of the cells, if it is not run.results. With `hparams=best` the experts of both
    protocols have the setting that the tune records select.
    """
    resolved = expand_cells(configs, [*words, "protocol=final"])
    tune = OmegaConf.to_container(OmegaConf.load(configs / "protocol" / "tune.yaml"))
    groups: dict[tuple[str, int], tuple[list[Cell], list[Cell]]] = {}
    for config in sorted(resolved, key=lambda config: config["task"]["column"]):
        node = OmegaConf.create(config)
        weights_sha256 = compute_weights_sha256(instantiate(node, "backbone"))
        selected, _ = select_hparams(node, weights_sha256=weights_sha256)
        final: dict[str, Any] = OmegaConf.to_container(selected, resolve=True)  # type: ignore[assignment]
        run = final["run"] if experts is None else {**final["run"], "results": experts}
        group = groups.setdefault((config["method"]["name"], config["seed"]), ([], []))
        for cells, protocol in zip(group, (tune, final["protocol"]), strict=True):
            chosen = {
                **copy.deepcopy(final),
                "protocol": protocol,
                "hparams": "given",
                "hparams_max_params": None,
                "run": run,
            }
            cells.append(cell_from_resolved(chosen, weights_sha256=weights_sha256))
    return [groups[name] for name in sorted(groups)], resolved


def check_available(
    cells: Sequence[Cell], words: Sequence[str], resolved: Sequence[Mapping[str, Any]], experts: str | None
) -> None:
    """Raises `UserError` with the command that trains the experts which are missing.

    A cell that has a record and no trained tensors would be skipped, so that all are to be trained in another folder.
    """
    is_lost = any(cell.is_done and not trained_path(cell.record).is_file() for cell in cells)
    missing = list(cells) if is_lost else [cell for cell in cells if not cell.is_done]
    if not missing:
        return
    folder, hint, reason = experts, "", "are missing"
    if is_lost:
        folder = "results/experts" if experts != "results/experts" else "results/experts2"
        hint, reason = (
            f", and add experts={folder} to this command",
            "are missing or have a record but no trained tensors",
        )
    base = {(config["method"]["name"], config["task"]["name"]): config for config in resolved}
    needed: dict[tuple[str, ...], list[Cell]] = {}
    for cell in missing:
        given = base[cell.config["method"]["name"], cell.config["task"]["name"]]
        needed.setdefault(changes(given, cell.config), []).append(cell)
    others = [] if folder is None else [f"run.results={folder}"]
    commands = [
        command(
            [*words, *settings, *tasks_of(of_settings, needed), *others], sorted(set(map(protocol_of, of_settings)))
        )
        for settings, of_settings in needed.items()
    ]
    raise UserError(
        f"{len(missing)} of {len(cells)} experts {reason}, as {missing[0].name} {protocol_of(missing[0])}; train them "
        f"with `{'`, `'.join(commands)}`{hint}"
    )


def changes(given: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the overrides that give a cell the settings which hparams=best selected."""
    before, after = (flatten({group: node[group] for group in SELECTED}) for node in (given, config))
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in after.items()}
    overrides = [f"{name}={text}" for name, text in texts.items() if before.get(name) != after[name]]
    return (*overrides, "hparams=given") if given["hparams"] == "best" else ()


def tasks_of(cells: Sequence[Cell], needed: Mapping[tuple[str, ...], list[Cell]]) -> list[str]:
    """Returns the override that chooses the tasks, if not all cells have the same settings."""
    if len(needed) == 1:
        return []
    suite = cells[0].config["task"]["suite"]
    prefix = "" if suite == "vtab1k" else f"{suite}/"
    return ["task=" + ",".join(sorted({prefix + cell.config["task"]["name"] for cell in cells}))]


def protocol_of(cell: Cell) -> str:
    """Returns the name of a cell's protocol."""
    return cell.config["protocol"]["name"]


def command(words: Sequence[str], protocols: Sequence[str]) -> str:
    """Returns the command that trains cells."""
    last = {word.partition("=")[0]: word for word in words}  # a later word replaces an earlier one
    return " ".join(
        ["python run.py" if IS_CHECKOUT else "moppa run", *last.values(), f"protocol={','.join(protocols)}"]
    )
