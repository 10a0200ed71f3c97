"""Tables of continual experiments, computed from the records below results/records/continual."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import stdev
from typing import Any

from moppa.report.merging import mean
from moppa.report.render.markdown import escape_markdown, grid
from moppa.report.rounding import round_text
from moppa.report.setting_names import by_settings
from moppa.report.table_files import write_formats
from moppa.utils.errors import UserError
from moppa.utils.flatten import flatten

FOLDER = "continual"  # below results/records
METRICS = {
    "accuracy": "Average accuracy: over all tasks, after the last one",
    "forgetting": "Forgetting: the best accuracy on a task after an earlier step minus that after the last task, mean "
    "over all tasks but the last (Chaudhry et al., 2018)",
    "backward_transfer": "Backward transfer: the accuracy on a task after the last task minus that right after the "
    "task was learned, mean over all tasks but the last (Lopez-Paz and Ranzato, 2017)",
    "learning_accuracy": "Learning accuracy: on each task right after it was learned, mean over the tasks",
}


@dataclass(frozen=True)
class Finished:
    """A finished sequence: the accuracy in percent of every task so far after each step, and its last record."""

    steps: Sequence[Mapping[str, Fraction]]
    last: Mapping[str, Any]
    sha256: str

    def metrics(self) -> dict[str, Fraction | None]:
        """Returns the numbers of METRICS; those of a single task are missing."""
        final, tasks = self.steps[-1], list(self.steps[-1])
        best = {task: max(step[task] for step in self.steps[:-1] if task in step) for task in tasks[:-1]}
        learned = {task: self.steps[index][task] for index, task in enumerate(tasks)}
        return {
            "accuracy": mean(final.values()),
            "forgetting": mean(best[task] - final[task] for task in tasks[:-1]),
            "backward_transfer": mean(final[task] - learned[task] for task in tasks[:-1]),
            "learning_accuracy": mean(learned.values()),
        }


def read_sequences(results: Path) -> list[Finished]:
    """Returns the finished sequences below a results folder, sorted by path.

    Raises:
        UserError: if a file is not the record of a step.
    """
    sequences = []
    for path in sorted((results / "records" / FOLDER).rglob("step1-seed*.json")):
        files = [path]
        while (file := path.with_name(path.name.replace("step1", f"step{len(files) + 1}", 1))).is_file():
            files.append(file)
        records, digest = [], hashlib.sha256()
        for file in files:
            data = file.read_bytes()
            digest.update(data)
            try:
                record = json.loads(data)
                names = [task["name"] for task in record["tasks"]]
                steps = {name: Fraction(100 * record["correct"][name], record["total"][name]) for name in names}
                records.append((record, steps))
                complete = len(files) == record["num_tasks"]
            except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
                raise UserError(
                    f"{file} is not the record of a continual step ({error}); delete it and run the sequence again"
                ) from error
        if complete:
            sequences.append(Finished([steps for _, steps in records], records[-1][0], digest.hexdigest()))
    return sequences


@dataclass(frozen=True)
class ContinualTable:
    """The sequences of one suite, backbone, protocol and set of tasks, by row."""

    suite: str
    backbone: str
    protocol: str
    tasks: Mapping[str, Mapping[str, Any]]  # by name, in the order of the suite
    rows: Mapping[str, Sequence[Finished]]
    is_whole: bool  # whether no other table of the suite has more tasks

    @property
    def name(self) -> str:
        """The name of its files."""
        parts = [FOLDER, self.suite, self.backbone, self.protocol, *([] if self.is_whole else [*self.tasks])]
        return "-".join(parts)

    @property
    def columns(self) -> dict[str, str]:
        """The titles of the metrics and tasks by name."""
        metrics = {name: name.replace("_", " ").capitalize() for name in METRICS}
        return metrics | {name: str(task["title"]) for name, task in self.tasks.items()}

    def values(self, row: str, column: str) -> list[Fraction | None]:
        """Returns the values of a row's sequences: a metric, or the final accuracy on a task."""
        return [(sequence.metrics() | dict(sequence.steps[-1]))[column] for sequence in self.rows[row]]


def continual_tables(results: Path) -> list[ContinualTable]:
    """Returns a table for each suite, backbone, protocol and set of tasks."""
    groups: dict[tuple[str, ...], list[Finished]] = {}
    for sequence in read_sequences(results):
        last = sequence.last
        names = sorted((task["column"], task["name"]) for task in last["tasks"])
        group = (last["suite"], last["backbone"], last["protocol"], *(name for _, name in names))
        groups.setdefault(group, []).append(sequence)
    tables = []
    for (suite, backbone, protocol, *names), sequences in sorted(groups.items()):
        tasks = {task["name"]: task for task in sequences[0].last["tasks"]}
        largest = max(len(group) for group in groups if group[:3] == (suite, backbone, protocol))
        rows = rows_of(sequences)
        whole = len(names) + 3 == largest
        tables.append(ContinualTable(suite, backbone, protocol, {name: tasks[name] for name in names}, rows, whole))
    return tables


def rows_of(sequences: Sequence[Finished]) -> dict[str, list[Finished]]:
    """Returns the sequences by row: a strategy of a method, with the settings in which its rows differ."""

    def label(sequence: Finished) -> str:
        return f"{sequence.last['method']}: {sequence.last['strategy']}"

    groups = by_settings(sequences, label, lambda sequence: settings_of(sequence.last))
    return {f"{name} ({text})" if text else name: own for name, text, own in groups}


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a sequence by dotted name; of those that were chosen on val200, the candidates."""
    config = record["config"]
    method = config.get("method", {})  # the first records do not hold it
    settings = flatten({"train": record["train"], "method": method}) | {"dtype": record["dtype"]}
    settings = flatten(config["continual"]["strategy"]) | settings
    chosen = {name for candidate in config["search"] for name in candidate["settings"]}
    candidates = [candidate["settings"] for candidate in config["search"]]
    return {name: value for name, value in settings.items() if name not in chosen} | {"tried": candidates}


def text_of(values: Sequence[Fraction | None]) -> str:
    """Returns mean and standard deviation, or a dash."""
    average = mean(values)
    if average is None:
        return "–"
    spread = f" ± {round_text(stdev(float(value or 0) for value in values))}" if len(values) > 1 else ""
    return round_text(average) + spread


def render_markdown(table: ContinualTable) -> str:
    """Returns a table with its title, caption and notes; the best average accuracy comes first."""
    columns = table.columns
    rows = sorted(table.rows, key=lambda row: (-(mean(table.values(row, "accuracy")) or 0), row))
    lines = [
        [row, str(len(table.rows[row])), *(text_of(table.values(row, column)) for column in columns)] for row in rows
    ]
    notes = [
        *(f"{text}." for text in METRICS.values()),
        "A task's column: its accuracy after the last task. Every task keeps its own head, and is known at test.",
        "Mean ± standard deviation over the sequences: seeds and orders of the tasks.",
    ]
    parts = [
        f"# Continual learning: {escape_markdown(table.suite)}, {escape_markdown(table.backbone)}",
        f"{len(table.tasks)} tasks in sequence, protocol {table.protocol}, in percent.",
        grid(["method: strategy", "Sequences", *map(escape_markdown, columns.values())], lines),
        "\n".join(f"- {escape_markdown(note)}" for note in notes),
    ]
    return "\n\n".join(parts) + "\n"


def render_csv(table: ContinualTable) -> str:
    """Returns the rows with four decimals, and the standard deviation beside each mean. Missing numbers are empty."""
    out = io.StringIO()
    fields = [field for column in table.columns for field in (column, f"{column}_sd")]
    identity = ["suite", "backbone", "protocol", "row", "sequences"]
    writer = csv.DictWriter(out, [*identity, *fields, "records_digest"], restval="", lineterminator="\n")
    writer.writeheader()
    for row in sorted(table.rows):
        own = table.rows[row]
        values: dict[str, Any] = dict(
            zip(identity, (table.suite, table.backbone, table.protocol, row, len(own)), strict=True)
        )
        for column in table.columns:
            numbers = table.values(row, column)
            average = mean(numbers)
            if average is not None:
                values[column] = round_text(average, 4)
                spread = stdev(float(number or 0) for number in numbers) if len(own) > 1 else None
                values |= {} if spread is None else {f"{column}_sd": round_text(spread, 4)}
        digests = "\n".join(sorted(sequence.sha256 for sequence in own))
        writer.writerow(values | {"records_digest": hashlib.sha256(digests.encode()).hexdigest()[:16]})
    return out.getvalue()


FORMATS: dict[str, Callable[[ContinualTable], str]] = {"md": render_markdown, "csv": render_csv}


def write_continual_tables(results: Path) -> list[Path]:
    """Writes results/tables/continual-SUITE-BACKBONE-PROTOCOL*.{md,csv} and returns their paths."""
    return [path for table in continual_tables(results) for path in write_formats(table, FORMATS, results)]
