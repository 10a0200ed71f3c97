"""Tables of merged models, computed from the records below results/records/merge."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import stdev
from typing import Any

from moppa.record.merge_schema import FOLDER, merge_paths, read_merge_record
from moppa.record.verify_merges import find_merge_inconsistency, verify_merges
from moppa.report.load import Excluded
from moppa.report.setting_names import by_settings
from moppa.utils.errors import UserError
from moppa.utils.flatten import flatten

REFERENCE = "frozen"  # the algorithm that changes nothing
LINEAR_PROBE = "linear probe of the frozen backbone"
TABLES = {
    "trained_head": "the heads of the experts",
    "fitted_head": "heads fitted again on features of the merged backbone",
}
READS_IMAGES = "*"  # the mark of an algorithm that reads training images
METRICS = {
    "average": "accuracy, mean over the tasks",
    "normalized": "accuracy divided by that of the expert, mean over the tasks",
    "chance_corrected": "(accuracy - chance) / (expert's accuracy - chance), mean over the tasks",
    "worst": "accuracy divided by that of the expert, on the worst task",
}


@dataclass(frozen=True)
class MergeRecord:
    """One record of a merge."""

    content: Mapping[str, Any]
    sha256: str

    def __getitem__(self, name: str) -> Any:
        return self.content[name]

    @property
    def num_tasks(self) -> int:
        """The number of merged tasks."""
        return len(self.content["tasks"])

    def accuracies(self, head: str) -> dict[str, Fraction]:
        """Returns the accuracy by task in percent, with trained heads, fitted ones, or of the experts themselves."""
        tasks = self.content["tasks"]
        if head == "expert":
            finals = {name: task["expert"]["final"] for name, task in tasks.items()}
            return {name: Fraction(100 * final["correct"], final["total"]) for name, final in finals.items()}
        return {name: Fraction(100 * task[head], task["total"]) for name, task in tasks.items()}

    def metrics(self, head: str) -> dict[str, Fraction | None]:
        """Returns the numbers of METRICS and the mean of every group of tasks, in percent."""
        tasks, own, experts = self.content["tasks"], self.accuracies(head), self.accuracies("expert")
        chances = {name: Fraction(100, task["num_classes"]) for name, task in tasks.items()}
        shares = [100 * own[name] / experts[name] if experts[name] else None for name in tasks]
        corrected = [
            100 * (own[name] - chances[name]) / (experts[name] - chances[name])
            if experts[name] > chances[name]
            else None
            for name in tasks
        ]
        groups = {
            task["group"]: [own[name] for name in tasks if tasks[name]["group"] == task["group"]]
            for task in tasks.values()
        }
        return {
            **{group: mean(values) for group, values in groups.items()},
            "average": mean(own.values()),
            "normalized": mean(shares),
            "chance_corrected": mean(corrected),
            "worst": None if None in shares else min(share for share in shares if share is not None),
        }


def mean(values: Iterable[Fraction | None]) -> Fraction | None:
    """Returns the mean, or None if a value is missing."""
    known = list(values)
    return (
        None
        if None in known or not known
        else sum((value for value in known if value is not None), Fraction(0)) / len(known)
    )


@dataclass(frozen=True)
class MergeRow:
    """The runs of one algorithm on the experts of one method: all seeds, and all draws of masks or orders."""

    method: str
    algorithm: str
    mark: str
    kind: str  # reference or merged
    values: Mapping[str, Sequence[Fraction | None]]  # of every run, by task and by metric
    scales: Sequence[float]
    records: Sequence[MergeRecord]

    def mean(self, name: str) -> Fraction | None:
        """Returns the mean over the runs."""
        return mean(self.values.get(name, ()))

    def sd(self, name: str) -> float | None:
        """Returns the standard deviation over the runs, None for a single one."""
        values = self.values.get(name, ())
        return (
            None if len(values) < 2 or None in values else stdev(float(value) for value in values if value is not None)
        )

    @property
    def num_tasks(self) -> int:
        """The number of merged tasks."""
        return self.records[0].num_tasks


@dataclass(frozen=True)
class MergeTable:
    """The rows of one suite and backbone, with one kind of heads; those of all numbers of tasks."""

    suite: str
    backbone: str
    head: str
    rows: Sequence[MergeRow]

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{FOLDER}-{self.suite}-{self.backbone}" + ("-fitted-heads" if self.head == "fitted_head" else "")

    @property
    def complete_rows(self) -> list[MergeRow]:
        """The rows of the merges of all tasks: references first, then the best on average first."""
        largest = max(row.num_tasks for row in self.rows)
        rows = [row for row in self.rows if row.num_tasks == largest]
        return sorted(
            rows, key=lambda row: (row.method, row.kind != "reference", -(row.mean("normalized") or 0), row.algorithm)
        )

    @property
    def columns(self) -> dict[str, str]:
        """The titles of the tasks and metrics by name."""
        tasks = {name: task for row in self.complete_rows for name, task in row.records[0]["tasks"].items()}
        ordered = sorted(tasks, key=lambda name: tasks[name]["column"])
        groups = dict.fromkeys(tasks[name]["group"] for name in ordered)
        names = {name: name.replace("_", "-").capitalize() for name in (*groups, *METRICS)}
        return {name: tasks[name]["title"] for name in ordered} | names


def read_merges(results: Path, *, check_predictions: bool = False) -> tuple[list[MergeRecord], list[Excluded]]:
    """Returns the records of merges, and the files that no table counts, sorted by path.

    Excluded is what is no record or contradicts itself; with `check_predictions` also what its predictions or the
    records of its experts contradict.
    """
    problems = {finding.path: finding.problem for finding in verify_merges(results)} if check_predictions else {}
    records, excluded = [], []
    for path in merge_paths(results):
        place = path.relative_to(results / "records").as_posix()
        try:
            content, sha256 = read_merge_record(path)
            problem = find_merge_inconsistency(content) or problems.get(place, "")
        except UserError as error:
            problem = str(error)
        if problem:
            _, suite, backbone, method, _, key = ("", *("",) * 5, *place.split("/")[:-1])[-6:]
            excluded.append(
                Excluded(relative_path=place, reason=problem, suite=suite, backbone=backbone, method=method, key=key)
            )
        else:
            records.append(MergeRecord(content, sha256))
    return records, excluded


def merge_tables(records: Iterable[MergeRecord]) -> list[MergeTable]:
    """Returns two tables for every suite and backbone: with trained heads, and with fitted ones."""
    groups: dict[tuple[str, str], list[MergeRecord]] = {}
    for record in records:
        groups.setdefault((record["suite"], record["backbone"]), []).append(record)
    return [
        MergeTable(suite, backbone, head, merge_rows(own, head))
        for (suite, backbone), own in sorted(groups.items())
        for head in TABLES
    ]


def merge_rows(records: Sequence[MergeRecord], head: str) -> list[MergeRow]:
    """Returns the rows of the records, and the references: the experts, and the frozen backbone's linear probe."""

    def place(record: MergeRecord) -> tuple[str, str, int]:
        return record["method"], record["algorithm"], record.num_tasks

    rows = []
    for (method, algorithm, _), text, own in by_settings(records, place, settings_of):
        is_reference = algorithm == REFERENCE
        mark = READS_IMAGES if own[0]["config"]["merge"].get("images") else ""
        name = f"{algorithm} ({text})" if text else algorithm
        label = LINEAR_PROBE if is_reference and head == "fitted_head" else name
        rows.append(row_of(method, label, mark, "reference" if is_reference else "merged", own, head))
        if is_reference and head == "trained_head":
            rows.append(row_of(method, LINEAR_PROBE, "", "reference", own, "fitted_head"))
        if is_reference:
            rows.append(row_of(method, "experts", "", "reference", own, "expert"))
    return rows


def settings_of(record: MergeRecord) -> dict[str, Any]:
    """Returns the settings of a merge by dotted name, which its records share. The number of draws is none."""
    return {name: value for name, value in flatten(record["config"]).items() if name != "merge.draws"}


def row_of(method: str, label: str, mark: str, kind: str, records: Sequence[MergeRecord], head: str) -> MergeRow:
    """Returns the row of some runs."""
    runs = [{**record.accuracies(head), **record.metrics(head)} for record in records]
    values = {name: [run.get(name) for run in runs] for name in dict.fromkeys(name for run in runs for name in run)}
    return MergeRow(method, label, mark, kind, values, [record["scale"] for record in records], records)
