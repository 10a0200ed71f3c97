"""Groups records into rows: one row for each method and setting, over all tasks and seeds.

A row is named by its method and by the settings that differ from the method's YAML. Other settings that differ from the
YAML files are in the table's caption if all rows share them, and in the row's name otherwise.
"""

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from moppa.report.budget import Budget, cell_budget
from moppa.report.load import Excluded, ValidRecord, exclude_record
from moppa.report.row_settings import CHANGED_TASK, method_overrides, run_settings
from moppa.utils.flatten import flatten

Cell = tuple[str, str, str]  # sender, task and key


@dataclass(frozen=True, kw_only=True)
class RowRecords:
    """The records of a row by task, in the order of their seeds; `overrides` are the settings in its name.

    If the records' tasks differ from their YAMLs, the row is not comparable: it has no marks and no means. If the row
    is tuned, its settings were chosen on val200, for each task.
    """

    name: str
    method: str
    overrides: Mapping[str, str]
    by_task: Mapping[str, Sequence[ValidRecord]] = field(repr=False)
    is_comparable: bool = True
    is_tuned: bool = False

    @property
    def records(self) -> list[ValidRecord]:
        return [record for records in self.by_task.values() for record in records]

    @property
    def params(self) -> Fraction:
        """The trainable parameters without the head: the mean over the tasks."""
        sizes = [records[0]["trainable_params"] for records in self.by_task.values()]
        return Fraction(sum(sizes), len(sizes)) if sizes else Fraction(0)

    @property
    def backbone_params(self) -> Mapping[str, int] | None:
        """The numbers of the backbone's parameters, `pretrained` and `kept`, if a record has them."""
        counts = (record.content.get("backbone_params") for record in self.records)
        return next((count for count in counts if count), None)

    @property
    def budgets(self) -> dict[str, Budget]:
        """The budget of the cells of each task."""
        return {task: cell_budget(records) for task, records in self.by_task.items()}

    def without(self, relative_paths: set[str]) -> "RowRecords":
        """Returns the same row without the records at some paths."""
        rest = {
            task: [record for record in records if record.relative_path not in relative_paths]
            for task, records in self.by_task.items()
        }
        return replace(self, by_task={task: records for task, records in rest.items() if records})


def group_rows(
    records: Sequence[ValidRecord], configs: Path
) -> tuple[dict[str, str], list[RowRecords], list[Excluded]]:
    """Returns the settings that all rows share, the rows from smallest to largest, and the excluded records."""
    tuned = {cell_of(record) for record in records if record.content.get("tuned")}
    settings = [run_settings(record, configs, is_tuned=cell_of(record) in tuned) for record in records]
    first = settings[0] if settings else {}
    shared = {
        name: value
        for name, value in first.items()
        if name != CHANGED_TASK and all(other.get(name) == value for other in settings)
    }
    members: dict[str, list[ValidRecord]] = defaultdict(list)
    overrides_by_name: dict[str, dict[str, str]] = {}
    of_methods = method_overrides_of(records, tuned, configs)
    for record, setting, of_method in zip(records, settings, of_methods, strict=True):
        overrides = of_method | {name: value for name, value in setting.items() if name not in shared}
        suffix = f" ({', '.join(f'{key} {value}' for key, value in overrides.items())})" if overrides else ""
        name = record["method"] + suffix
        members[name].append(record)
        overrides_by_name[name] = overrides
    rows, excluded = [], []
    for name, of_row in members.items():
        by_task, mixed = group_by_task(name, of_row)
        excluded += mixed
        method, overrides = of_row[0]["method"], overrides_by_name[name]
        rows.append(
            RowRecords(
                name=name,
                method=method,
                overrides=overrides,
                by_task=by_task,
                is_comparable=CHANGED_TASK not in overrides,
                is_tuned=cell_of(of_row[0]) in tuned,
            )
        )
    return shared, sorted(rows, key=lambda row: (row.params, row.method, row.name)), excluded


def method_overrides_of(records: Sequence[ValidRecord], tuned: Container[Cell], configs: Path) -> list[dict[str, str]]:
    """Returns the settings of each record's method that name its row.

    If tuned records of a method have several settings on one task, the method was tuned more than once, each time with
    other settings that were not tuned: then all of its settings count.
    """
    overrides = [method_overrides(record, configs, is_tuned=cell_of(record) in tuned) for record in records]
    names = [
        (record.sender, record["method"], *of_method.items())
        for record, of_method in zip(records, overrides, strict=True)
    ]
    keys: dict[Any, set[str]] = defaultdict(set)
    for record, name in zip(records, names, strict=True):
        if cell_of(record) in tuned:
            keys[name, record["task"], record["dtype"]].add(json.dumps(record["config"]["method"], sort_keys=True))
    ambiguous = {name for (name, *_), settings in keys.items() if len(settings) > 1}
    return [
        method_overrides(record, configs, is_tuned=False) if name in ambiguous else of_method
        for record, name, of_method in zip(records, names, overrides, strict=True)
    ]


def group_by_task(name: str, records: Iterable[ValidRecord]) -> tuple[dict[str, list[ValidRecord]], list[Excluded]]:
    """Returns a row's records of each task by seed. A task whose records have different settings is excluded."""
    by_task: dict[str, list[ValidRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record["seed"]):
        by_task[record["task"]].append(record)
    consistent, excluded = {}, []
    for task, of_task in by_task.items():
        if len({record["key"] for record in of_task}) == 1:
            consistent[task] = of_task
        else:
            differing = ", ".join(differing_settings(of_task))
            reason = f"the records of {name} on {task} differ in {differing}; keep those of one key"
            excluded += [exclude_record(record, reason) for record in of_task]
    return consistent, excluded


def differing_settings(records: Sequence[ValidRecord]) -> list[str]:
    """Returns the dotted names of the settings in which records differ, without the seed."""
    settings = [
        flatten(record["config"]) | {"weights": record["weights"]["sha256"], "dtype": record["dtype"]}
        for record in records
    ]
    names = dict.fromkeys(name for setting in settings for name in setting)
    return [name for name in names if name != "seed" and len({str(setting.get(name)) for setting in settings}) > 1]


def cell_of(record: ValidRecord) -> Cell:
    """Returns the cell of a record: all seeds with it are in one row, however their setting was found."""
    return record.sender, record["task"], record["key"]
