"""Writes the tables of merged models as Markdown and CSV."""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from moppa.report.merging import METRICS, READS_IMAGES, TABLES, MergeRow, MergeTable
from moppa.report.render.markdown import escape_markdown, grid
from moppa.report.rounding import round_text
from moppa.report.table_files import write_formats


def render_markdown(table: MergeTable) -> str:
    """Returns a table with its title, caption and notes."""
    columns, rows = table.columns, table.complete_rows
    cells = [
        [f"{row.method}: {row.algorithm}{row.mark}", scale_text(row), *(cell(row, name) for name in columns)]
        for row in rows
    ]
    number = rows[0].num_tasks
    lines = [
        f"# Merged models: {escape_markdown(table.suite)}, {escape_markdown(table.backbone)}",
        f"One backbone out of {number} experts, in percent; {TABLES[table.head]}.",
        grid(["experts: algorithm", "Scale", *map(escape_markdown, columns.values())], cells),
        "\n".join(f"- {escape_markdown(note)}" for note in table_notes(rows)),
    ]
    return "\n\n".join(lines) + "\n"


def table_notes(rows: Sequence[MergeRow]) -> list[str]:
    """Returns the sentences below a table."""
    return [
        *(f"{name.replace('_', '-').capitalize()}: {text}." for name, text in METRICS.items()),
        "Mean ± standard deviation over the seeds of the experts, and over draws of masks or orders.",
        "Scale: of the merged delta, chosen on val200 with experts of protocol=tune; the mean over the runs.",
        *([f"{READS_IMAGES} reads training images."] if any(row.mark for row in rows) else []),
    ]


def cell(row: MergeRow, name: str) -> str:
    """Returns the text of a value."""
    value, sd = row.mean(name), row.sd(name)
    if value is None:
        return "–"
    return round_text(value) + ("" if sd is None else f" ± {round_text(sd)}")


def scale_text(row: MergeRow) -> str:
    """Returns the mean scale of the runs."""
    return "" if row.kind == "reference" else round_text(round(fmean(row.scales), 4), 2)


def render_csv(table: MergeTable) -> str:
    """Returns the rows of all numbers of tasks, with four decimals. Missing numbers are empty."""
    names = [name for name in table.columns for name in (name, f"{name}_sd")]
    identity = ["suite", "backbone", "method", "row", "kind", "images", "heads", "num_tasks", "runs", "scale"]
    out = io.StringIO()
    writer = csv.DictWriter(out, [*identity, *names, "records_digest"], restval="", lineterminator="\n")
    writer.writeheader()
    for row in sorted(table.rows, key=lambda row: (row.method, row.num_tasks, row.algorithm)):
        digests = sorted(record.sha256 for record in row.records)
        fields: dict[str, Any] = {
            "suite": table.suite,
            "backbone": table.backbone,
            "method": row.method,
            "row": row.algorithm,
            "kind": row.kind,
            "images": "train" if row.mark else "",
            "heads": table.head.removesuffix("_head"),
            "num_tasks": row.num_tasks,
            "runs": len(row.records),
            "scale": "" if row.kind == "reference" else round_text(round(fmean(row.scales), 6), 4),
            "records_digest": hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16],
        }
        for name in table.columns:
            value, sd = row.mean(name), row.sd(name)
            fields |= {
                name: "" if value is None else round_text(value, 4),
                f"{name}_sd": "" if sd is None else round_text(sd, 4),
            }
        writer.writerow(fields)
    return out.getvalue()


FORMATS: dict[str, Callable[[MergeTable], str]] = {"md": render_markdown, "csv": render_csv}


def write_merge_tables(tables: Iterable[MergeTable], results: Path) -> list[Path]:
    """Writes results/tables/merge-SUITE-BACKBONE*.{md,csv} and returns their paths."""
    return [path for table in tables for path in write_formats(table, FORMATS, results)]
