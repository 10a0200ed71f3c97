"""The table of one suite, backbone and protocol, computed from records: task accuracies, means, parameters.

Missing cells are shown as missing; their rows are marked, and means that include them are withheld.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import pandas as pd

from moppa.report.aggregate import Value, aggregate_values
from moppa.report.budget import Budget
from moppa.report.columns import Column, suite_versions, task_groups
from moppa.report.facts import table_caption, table_facts
from moppa.report.hardware import MIXED, mixed_cells
from moppa.report.load import Excluded, ValidRecord, digest_records, exclude_record
from moppa.report.published import Published
from moppa.report.references import Reference, find_references, published_rows
from moppa.report.rows import RowRecords, group_rows
from moppa.report.significance import Comparer
from moppa.utils.errors import UserError

INCOMPLETE, HAS_EXCLUDED, UNEVEN_SEEDS, UNPROVEN = "†", "‡", "§", "◊"
MARKS = {
    INCOMPLETE: "some tasks are missing; means that include them are withheld",
    HAS_EXCLUDED: "some records of this row were excluded",
    UNEVEN_SEEDS: "its cells have different seeds",
    UNPROVEN: "the training images of some cells are not proven to be the official ones",
}
UNPROVEN_CHECKS = ("no digest", "official start")
NO_TASK = "no YAML in configs/task defines its task {} of the suite {}; restore that YAML or delete the record"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting of a method, or, if the row is tuned, the setting that was chosen on val200 for each task.

    `values` are by column: a task or a mean (`mean_GROUP`, `mean_groups`, `mean_tasks`). `overrides` are the settings
    in the name. `budgets` are by task. `backbone_params` is the number of backbone parameters that the method keeps.
    """

    name: str
    method: str
    overrides: Mapping[str, str]
    marks: str
    values: Mapping[str, Value] = field(repr=False)
    params: Fraction
    params_with_head: Fraction | None
    backbone_params: int | None = None
    budgets: Mapping[str, Budget] = field(default_factory=dict, repr=False)
    is_tuned: bool = False
    references: Mapping[str, Reference] = field(default_factory=dict)
    records_by_task: Mapping[str, Sequence[ValidRecord]] = field(repr=False)

    @property
    def records(self) -> list[ValidRecord]:
        return [record for records in self.records_by_task.values() for record in records]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Everything that a format renders. `suite` names the version of the suite, too: mini, mini_v2."""

    suite: str
    backbone: str
    checkpoint: str
    protocol: str
    columns: Sequence[Column]
    caption: str
    facts: Sequence[str]
    notes: Mapping[str, str]
    rows: Sequence[Row]
    published: Sequence[Published]
    excluded: Sequence[Excluded]
    digest: str

    @property
    def name(self) -> str:
        return f"{self.suite}-{self.backbone}-{self.protocol}"

    @property
    def title(self) -> str:
        return f"{self.suite}, {self.backbone}, protocol {self.protocol}"

    @property
    def groups(self) -> dict[str, list[str]]:
        return task_groups(self.columns)

    @property
    def accuracies(self) -> pd.DataFrame:
        """The mean accuracies in percent, rows by tasks; NaN if a cell is missing."""
        tasks = [column.task for column in self.columns]
        means = [[row.values[task].mean for task in tasks] for row in self.rows]
        means = [[None if mean is None else float(mean) for mean in of_row] for of_row in means]
        return pd.DataFrame(means, index=[row.name for row in self.rows], columns=tasks, dtype=float)


def build_tables(results: Path, configs: Path, records: Sequence[ValidRecord], excluded: list[Excluded]) -> list[Table]:
    """Returns one table for each suite, backbone and protocol that has records, in alphabetical order.

    A version of a suite has a table of its own if there are records of the tasks that joined the suite with it. The
    records of a suite whose tasks have no YAMLs any more are added to `excluded`.
    """
    groups: dict[tuple[str, str, str], list[ValidRecord]] = {}
    for record in records:
        groups.setdefault((record["suite"], record["backbone"], record["protocol"]), []).append(record)
    tables = []
    for (suite, _, _), group in sorted(groups.items()):
        try:
            versions = suite_versions(suite, configs)
        except UserError as error:  # costs the tables of this suite alone
            excluded += [exclude_record(record, str(error)) for record in group]
            continue
        for name, of_version in records_by_version(versions, group).items():
            tables.append(build_table(name, versions[name], of_version, excluded, results / "published.csv", configs))
    return tables


def records_by_version(
    versions: Mapping[str, Sequence[Column]], records: Sequence[ValidRecord]
) -> dict[str, list[ValidRecord]]:
    """Returns the records of each version of a suite that has records of the tasks that joined with it."""
    joined = {column.task: column.suite_version for columns in versions.values() for column in columns}
    found = {}
    for name, columns in versions.items():
        version = max(column.suite_version for column in columns)
        if any(joined.get(record["task"]) == version for record in records):
            found[name] = [record for record in records if joined.get(record["task"], 0) <= version]
    return found or {next(iter(versions)): list(records)}  # of tasks without YAMLs


def build_table(
    name: str,
    columns: Sequence[Column],
    records: Sequence[ValidRecord],
    excluded: Sequence[Excluded],
    published_file: Path,
    configs: Path,
) -> Table:
    """Returns the table of records that share one suite, backbone and protocol; `name` is that of the version."""
    suite, backbone, protocol = (records[0][name] for name in ("suite", "backbone", "protocol"))
    tasks = {column.task for column in columns}
    unknown = [exclude_record(rec, NO_TASK.format(rec["task"], suite)) for rec in records if rec["task"] not in tasks]
    shared, rows, mixed = group_rows([record for record in records if record["task"] in tasks], configs)
    rows, values, contradicted = compute_values(rows, task_groups(columns))
    omitted = [file for file in excluded if (file.suite, file.backbone) == (suite, backbone)]
    omitted += unknown + mixed + contradicted
    used = [record for row in rows for record in row.records]
    used_keys = {record["key"] for record in used}
    omitted_keys = {file.key for file in omitted}
    rowless_methods = {file.method for file in omitted if file.key not in used_keys}
    published = published_rows(records[0], published_file, configs)
    built = []
    kept = kept_params(rows)
    for row in rows:
        marks = row_marks(row, len(columns), omitted_keys, rowless_methods)
        of_row = build_row(row, values[row.name], marks, len(columns), published)
        built.append(replace(of_row, backbone_params=kept.get(row.name)))
    return Table(
        suite=name,
        backbone=backbone,
        checkpoint=records[0]["config"]["backbone"]["timm"],
        protocol=protocol,
        columns=columns,
        caption=table_caption(used, protocol),
        facts=table_facts(used, shared, budgets_by_task(rows)),
        notes=mark_notes(built),
        rows=built,
        published=published,
        excluded=omitted,
        digest=digest_records(used),
    )


def compute_values(
    rows: Sequence[RowRecords], groups: Mapping[str, Sequence[str]]
) -> tuple[list[RowRecords], dict[str, dict[str, Value]], list[Excluded]]:
    """Returns the rows, their values, and the records that their predictions contradict and that are not counted."""
    contradicted: list[Excluded] = []
    while True:
        rows = [row for row in rows if row.by_task]
        comparer = Comparer({row.name: row.by_task for row in rows})
        values = aggregate_values(rows, groups, comparer) if rows else {}
        if not comparer.excluded:
            return rows, values, contradicted
        contradicted += comparer.excluded
        rows = [row.without({file.relative_path for file in contradicted}) for row in rows]


def build_row(
    row: RowRecords, values: Mapping[str, Value], marks: str, num_tasks: int, published: Sequence[Published]
) -> Row:
    """Returns one row with its size and the published means of its method.

    The size with the head is None if tasks are missing and the heads of the others differ.
    """
    heads = [records[0]["head_params"] for records in row.by_task.values()]
    has_size = len(row.by_task) == num_tasks or len(set(heads)) == 1
    return Row(
        name=row.name,
        method=row.method,
        overrides=row.overrides,
        marks=marks,
        values=values,
        params=row.params,
        params_with_head=row.params + Fraction(sum(heads), len(heads)) if has_size else None,
        budgets=row.budgets,
        is_tuned=row.is_tuned,
        references=find_references(row, values["mean_groups"].mean, published),
        records_by_task=row.by_task,
    )


def kept_params(rows: Sequence[RowRecords]) -> dict[str, int]:
    """Returns the number of backbone parameters that each row's method keeps, if they differ; empty if they do not.

    A record without the number was written when every method kept the whole backbone.
    """
    counts = [count for row in rows if (count := row.backbone_params)]
    if all(count["kept"] == count["pretrained"] for count in counts):
        return {}
    whole = {"kept": max(count["pretrained"] for count in counts)}
    return {row.name: (row.backbone_params or whole)["kept"] for row in rows}


def budgets_by_task(rows: Sequence[RowRecords]) -> list[list[Budget]]:
    """Returns the budgets of the rows that may be marked, for each task that any of them has."""
    by_task: dict[str, list[Budget]] = {}
    for row in rows:
        for task, budget in row.budgets.items() if row.is_comparable else ():
            by_task.setdefault(task, []).append(budget)
    return list(by_task.values())


def mark_notes(rows: Sequence[Row]) -> dict[str, str]:
    """Returns the meaning of every mark that a row has."""
    notes = {mark: text for mark, text in MARKS.items() if any(mark in row.marks for row in rows)}
    cells = [f"{row.name} on {cell}" for row in rows for cell in mixed_cells(row.records_by_task)]
    return notes | (
        {MIXED: f"the seeds of a cell did not run on the same kind of machine: {'; '.join(cells)}"} if cells else {}
    )


def row_marks(row: RowRecords, num_tasks: int, omitted_keys: set[str], rowless_methods: set[str]) -> str:
    """Returns the marks of `MARKS`, and `MIXED`, that a row has.

    An excluded record whose key is in no row marks all rows of its method.
    """
    keys = {record["key"] for record in row.records}
    seeds = {tuple(record["seed"] for record in records) for records in row.by_task.values()}
    is_marked = {
        INCOMPLETE: len(row.by_task) < num_tasks,
        HAS_EXCLUDED: bool(keys & omitted_keys) or row.method in rowless_methods,
        UNEVEN_SEEDS: len(seeds) > 1,
        UNPROVEN: any(record["split"]["verdict"] in UNPROVEN_CHECKS for record in row.records),
        MIXED: bool(mixed_cells(row.by_task)),
    }
    return "".join(mark for mark, is_raised in is_marked.items() if is_raised)
