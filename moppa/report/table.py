"""The papers' table from the records: tasks in their groups, means, parameters; one a suite, backbone and protocol.

A missing cell is shown as missing, its row is marked and its means are withheld.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from moppa.report.aggregate import Value, aggregate_values
from moppa.report.beside import Reference, compare_with, counterparts, published_rows
from moppa.report.columns import Column, suite_columns, task_groups
from moppa.report.load import Excluded, ValidRecord, digest_records, exclude_record
from moppa.report.published import Published
from moppa.report.rows import RowRecords, group_rows
from moppa.report.significance import TEST, PairedBootstrap

PROTOCOLS = {
    "final": "trained on the 1000 images, test set read once after the last epoch",
    "best_on_test": "a diagnostic and no result: the test set was read many times",
    "tune": "trained on train800, read on val200 after the last epoch; never the test set",
}
INCOMPLETE, OMITTED, UNEVEN = "†", "‡", "§"
MARKS = {
    INCOMPLETE: "not all tasks were run, and no mean is taken over what is missing",
    OMITTED: "records of this row were left out",
    UNEVEN: "its cells have different seeds",
}
NO_TASK = "its task {} is none of the suite {}: no YAML in configs/task says so; restore that or delete the record"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting of a method; `values` has a task's or a mean's (`mean_GROUP`, `mean_groups`, `mean_tasks`)."""

    name: str
    method: str
    marks: str
    values: Mapping[str, Value] = field(repr=False)
    params: float
    params_with_head: float | None
    beside: Mapping[str, Reference] = field(default_factory=dict)
    setting: RowRecords


@dataclass(frozen=True, kw_only=True)
class Table:
    """All that any format shows."""

    suite: str
    backbone: str
    checkpoint: str
    protocol: str
    columns: Sequence[Column]
    facts: Sequence[str]
    notes: Mapping[str, str]
    rows: Sequence[Row]
    published: Sequence[Published]
    left_out: Sequence[Excluded]
    digest: str

    @property
    def name(self) -> str:
        return f"{self.suite}-{self.backbone}-{self.protocol}"

    @property
    def title(self) -> str:
        return f"{self.suite}, {self.backbone}, protocol {self.protocol}"

    @property
    def groups(self) -> dict[str, list[str]]:
        return task_groups(list(self.columns))

    @property
    def accuracies(self) -> pd.DataFrame:
        """Mean accuracy in percent, rows by tasks; NaN where a cell is missing."""
        tasks = [column.task for column in self.columns]
        means = [[row.values[task].mean for task in tasks] for row in self.rows]
        return pd.DataFrame(means, index=[row.name for row in self.rows], columns=tasks, dtype=float)


def tables_of(
    results: Path, configs: Path, records: Sequence[ValidRecord], left_out: Sequence[Excluded]
) -> list[Table]:
    """One table for every suite, backbone and protocol that there are records of, in that order."""
    groups: dict[tuple[str, str, str], list[ValidRecord]] = {}
    for one in records:
        groups.setdefault((one["suite"], one["backbone"], one["protocol"]), []).append(one)
    return [table_of(group, left_out, results / "published.csv", configs) for _, group in sorted(groups.items())]


def table_of(
    records: Sequence[ValidRecord], left_out: Sequence[Excluded], published_file: Path, configs: Path
) -> Table:
    """One table; all records are of one suite, backbone and protocol."""
    suite, backbone, protocol = (records[0][name] for name in ("suite", "backbone", "protocol"))
    columns = suite_columns(suite, configs)
    tasks = {column.task for column in columns}
    strange = [exclude_record(one, NO_TASK.format(one["task"], suite)) for one in records if one["task"] not in tasks]
    shared, settings, mixed = group_rows([one for one in records if one["task"] in tasks], configs)
    settings, values, false = judged(settings, task_groups(columns))
    omitted = [one for one in left_out if (one.suite, one.backbone) == (suite, backbone)] + strange + mixed + false
    used = [one for setting in settings for one in setting.records]
    lost = {one.key for one in omitted}
    orphans = {one.method for one in omitted if one.key not in {used_one["key"] for used_one in used}}
    others = published_rows(records[0], columns, published_file)
    rows = [row_of(setting, values[setting.name], columns, lost, orphans, others) for setting in settings]
    return Table(
        suite=suite,
        backbone=backbone,
        checkpoint=records[0]["config"]["backbone"]["timm"],
        protocol=protocol,
        columns=columns,
        facts=facts_of(used, shared, protocol),
        notes={mark: text for mark, text in MARKS.items() if any(mark in row.marks for row in rows)},
        rows=rows,
        published=others,
        left_out=omitted,
        digest=digest_records(used),
    )


def judged(
    settings: Sequence[RowRecords], groups: Mapping[str, Sequence[str]]
) -> tuple[list[RowRecords], dict[str, dict[str, Value]], list[Excluded]]:
    """The rows with their values, and the records that were found false where their predictions were asked for."""
    false: list[Excluded] = []
    while True:
        settings = [setting for setting in settings if setting.cells]
        judge = PairedBootstrap({setting.name: setting.cells for setting in settings})
        values = aggregate_values(settings, groups, judge) if settings else {}
        if not judge.faults:
            return settings, values, false
        false += judge.faults
        settings = [setting.without({one.place for one in false}) for setting in settings]


def row_of(
    setting: RowRecords,
    values: Mapping[str, Value],
    columns: Sequence[Column],
    lost_keys: set[str],
    orphans: set[str],
    others: Sequence[Published],
) -> Row:
    """One row with its marks, its size and what was published of its method.

    `lost_keys` are the keys of records that were left out, `orphans` the methods of those that belong to no row.
    """
    is_whole = all(column.task in setting.cells for column in columns)
    heads = {task: cell[0]["head_params"] for task, cell in setting.cells.items()}
    known = is_whole or len(set(heads.values())) == 1
    ours = values["mean_groups"].mean
    return Row(
        name=setting.name,
        method=setting.method,
        marks=marks_of(setting, is_whole, lost_keys, orphans),
        values=values,
        params=setting.params,
        params_with_head=setting.params + sum(heads.values()) / len(heads) if known else None,
        beside={name: compare_with(other, ours, setting) for name, other in counterparts(setting, others).items()},
        setting=setting,
    )


def marks_of(setting: RowRecords, is_whole: bool, lost_keys: set[str], orphans: set[str]) -> str:
    """The marks of `MARKS` that a row bears. A lost record that belongs to no row is held against all of its method."""
    keys = {one["key"] for one in setting.records}
    seeds = {tuple(one["seed"] for one in cell) for cell in setting.cells.values()}
    raised = {
        INCOMPLETE: not is_whole,
        OMITTED: bool(keys & lost_keys) or setting.method in orphans,
        UNEVEN: len(seeds) > 1,
    }
    return "".join(mark for mark, is_raised in raised.items() if is_raised)


def facts_of(records: Sequence[ValidRecord], shared: Mapping[str, str], protocol: str) -> list[str]:
    """What the numbers are: protocol, seeds, lineage, weights, code, digest."""
    seeds = sorted({one["seed"] for one in records})
    commits = sorted({f"{one['git']['commit'] or 'none'}"[:10] + "+" * bool(one["git"]["dirty"]) for one in records})
    verdicts = sorted({one["split"]["verdict"] for one in records})
    dtypes = sorted({str(one["dtype"]) for one in records})
    return [
        f"accuracy in percent; {protocol}: {PROTOCOLS.get(protocol, protocol)}",
        f"seeds {', '.join(map(str, seeds))} (mean ± standard deviation where a cell has several)",
        f"split {', '.join(verdicts)}",
        *(f"{name} {value}" for name, value in shared.items()),
        f"computed in {', '.join(dtypes)}",
        f"commit {', '.join(commits)} (+: with local changes)",
        f"{len(records)} records, digest {digest_records(records)}",
        f"bold: best, underlined: second, each only where it exceeds the next row by {TEST}",
        "–: not run",
    ]
