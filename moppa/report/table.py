"""The papers' table from the records: 19 tasks in three groups, their means, the parameters.

A row is one setting of one method: all that can change the outcome except task and seed. It is called by the method's
name and by what differs from the method's YAML; what else differs from the YAMLs stands in the caption where all rows
share it, and in the row's name where they do not. A missing cell is shown as missing and its means are withheld.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from moppa import record
from moppa.data.task import GROUPS
from moppa.errors import UserError
from moppa.files import whole_file

MISSING = "–"
PROTOCOLS = {
    "final": "trained on the 1000 images, test set read once after the last epoch",
    "tune": "trained on train800, read on val200 after the last epoch; never the test set",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One task of a suite, as its YAML describes it."""

    task: str
    title: str
    group: str


def write_tables(results: Path, configs: Path) -> list[Path]:
    """Writes `results/tables/SUITE-BACKBONE-PROTOCOL.md` for all that there are records of."""
    records = [record.read(path) for path in sorted((results / "records").rglob("seed*.json"))]
    written = []
    for (suite, backbone, protocol), group in grouped(records, ("suite", "backbone", "protocol")).items():
        path = results / "tables" / f"{suite}-{backbone}-{protocol}.md"
        with whole_file(path) as temporary:
            temporary.write_text(markdown(group, columns_of(suite, configs), configs))
        written.append(path)
    return written


def grouped(records: Iterable[dict[str, Any]], names: Sequence[str]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """The records by the values of some of their fields, in the order of those."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for one in records:
        groups.setdefault(tuple(one[name] for name in names), []).append(one)
    return dict(sorted(groups.items()))


def columns_of(suite: str, configs: Path) -> list[Column]:
    """The tasks of a suite in the papers' order."""
    tasks = [OmegaConf.load(path) for path in sorted((configs / "task").rglob("*.yaml"))]
    mine = sorted(
        (task for task in tasks if task.suite == suite), key=lambda task: (GROUPS.index(task.group), task.column)
    )
    if not mine:
        raise UserError(f"records of suite {suite!r} have no tasks in {configs / 'task'}: their YAMLs are missing")
    return [Column(task=task.name, title=task.title, group=task.group) for task in mine]


def markdown(records: Sequence[dict[str, Any]], columns: Sequence[Column], configs: Path) -> str:
    """One table with its caption; all records are of one suite, backbone and protocol."""
    shared, rows = name_rows(records, configs)
    lines = {name: row_of(cells, columns) for name, cells in sorted(rows.items(), key=lambda row: size_of(row[1]))}
    table = pd.DataFrame.from_dict(lines, orient="index")
    table.index.name = "method"
    suite, backbone, protocol = (records[0][name] for name in ("suite", "backbone", "protocol"))
    grid = table.to_markdown(colalign=("left", *("right" for _ in table.columns)), disable_numparse=True)
    return f"# {suite}, {backbone}, protocol {protocol}\n\n{caption(records, shared)}\n\n{grid}\n"


def caption(records: Sequence[dict[str, Any]], shared: Mapping[str, Any]) -> str:
    """What the numbers are: protocol, seeds, lineage, weights, code."""
    protocol = records[0]["protocol"]
    seeds = sorted({one["seed"] for one in records})
    commits = sorted(
        {f"{one['git']['commit'] or 'none'}"[:10] + ("+" if one["git"]["dirty"] else "") for one in records}
    )
    verdicts = sorted({one["split"]["verdict"] for one in records})
    facts = [
        f"Accuracy in percent; {protocol}: {PROTOCOLS.get(protocol, protocol)}",
        f"seeds {', '.join(map(str, seeds))} (mean ± standard deviation where a cell has several)",
        f"split {', '.join(verdicts)}",
        *(f"{name} {value}" for name, value in shared.items()),
        f"commit {', '.join(commits)} (+: with local changes)",
        f"{MISSING}: not run, and no mean over it",
    ]
    return "; ".join(facts) + "."


def row_of(cells: Sequence[dict[str, Any]], columns: Sequence[Column]) -> dict[str, str]:
    """One row: every task, the mean of each group, of the groups and of the tasks, the parameters without the head."""
    by_task = {task: group for (task,), group in grouped(cells, ("task",)).items()}
    accuracies = {
        column.task: pd.Series(
            [100 * cell["correct"] / cell["total"] for cell in by_task.get(column.task, [])], dtype=float
        )
        for column in columns
    }
    row: dict[str, str] = {}
    group_means = []
    for group in dict.fromkeys(column.group for column in columns):
        mine = [column for column in columns if column.group == group]
        row |= {column.title: cell_text(accuracies[column.task]) for column in mine}
        group_means.append(mean_of([accuracies[column.task].mean() for column in mine]))
        row[f"**{group.capitalize()}**"] = number_text(group_means[-1])
    row["**Mean of groups**"] = number_text(mean_of(group_means))
    row[f"**Mean of {len(columns)}**"] = number_text(mean_of([accuracy.mean() for accuracy in accuracies.values()]))
    row["Parameters (M)"] = f"{size_of(cells)[0] / 1e6:.3f}"
    return row


def mean_of(values: Sequence[float]) -> float:
    """The mean, or NaN where one of the values is missing."""
    return pd.Series(values, dtype=float).mean(skipna=False)


def cell_text(accuracy: pd.Series) -> str:
    """One cell, over its seeds."""
    spread = f" ± {accuracy.std():.1f}" if len(accuracy) > 1 else ""
    return number_text(accuracy.mean()) + spread


def number_text(value: float) -> str:
    """A percentage, or the sign for a missing one."""
    return MISSING if pd.isna(value) else f"{value:.1f}"


def size_of(cells: Sequence[dict[str, Any]]) -> tuple[int, str]:
    """What rows are ordered by: trainable parameters without the head, then the method."""
    return max(cell["trainable_params"] for cell in cells), cells[0]["method"]


def name_rows(
    records: Sequence[dict[str, Any]], configs: Path
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """What all rows share beyond the YAMLs, and the records of each row by the row's name."""
    settings = [surroundings(one, configs) for one in records]
    shared = {name: value for name, value in settings[0].items() if all(other.get(name) == value for other in settings)}
    rows: dict[str, list[dict[str, Any]]] = {}
    for one, setting in zip(records, settings, strict=True):
        own = differences(one["config"]["method"], configs / "method" / f"{one['method']}.yaml")
        own |= {name: value for name, value in setting.items() if name not in shared}
        said = ", ".join(f"{name} {value}" for name, value in own.items())
        rows.setdefault(one["method"] + (f" ({said})" if said else ""), []).append(one)
    return shared, rows


def surroundings(one: Mapping[str, Any], configs: Path) -> dict[str, Any]:
    """What a record's outcome rests on besides method, task and seed: what differs from the YAMLs, data and weights."""
    config = one["config"]
    backbone = {name: value for name, value in config["backbone"].items() if name != "weights"}
    return {
        "data lineage": one["split"]["lineage"],
        "weights": f"{one['weights']['name']} (sha256 {one['weights']['sha256'][:12]})",
        **differences(backbone, configs / "backbone" / f"{one['backbone']}.yaml"),
        **differences(config["train"], configs / "train" / "common.yaml"),
    }


def differences(config: Mapping[str, Any], defaults: Path) -> dict[str, Any]:
    """The settings whose values are not the YAML's, by their last names; all of them where the YAML is gone."""
    standard = flat(OmegaConf.to_container(OmegaConf.load(defaults))) if defaults.exists() else {}
    found = {name: value for name, value in flat(config).items() if name not in standard or standard[name] != value}
    return {name.rpartition(".")[2]: text_of(value) for name, value in found.items()}


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested config with dotted names."""
    leaves: dict[str, Any] = {}
    for name, value in config.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return leaves


def text_of(value: Any) -> str:
    """A setting's value as a row's name shows it."""
    return (
        "+".join(map(str, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
