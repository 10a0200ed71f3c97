"""Reads records and writes every table in every format."""

import sys
from dataclasses import dataclass
from pathlib import Path

from moppa.record.submitted import submitted_packs
from moppa.record.verify import verify_records
from moppa.report.columns import read_tasks
from moppa.report.continual import write_continual_tables
from moppa.report.load import Excluded, ValidRecord, exclude_record, load_records, relative_to
from moppa.report.merge_files import write_merge_tables
from moppa.report.merge_summary import write_summaries
from moppa.report.merging import merge_tables, read_merges
from moppa.report.render import csv_file, latex_html, markdown
from moppa.report.table import Table, build_tables
from moppa.report.table_files import write_formats
from moppa.utils.errors import UserError

FORMATS = {
    "md": markdown.render_markdown,
    "tex": latex_html.render_latex,
    "csv": csv_file.render_csv,
    "html": latex_html.render_html,
}


@dataclass(frozen=True, kw_only=True)
class WrittenTables:
    """The tables, the files written, and the records that no table counts."""

    tables: list[Table]
    written: list[Path]
    excluded: list[Excluded]


def read_tables(results: Path, configs: Path, *, check_predictions: bool = False) -> tuple[list[Table], list[Excluded]]:
    """Returns the tables and the records that no table counts, sorted by path.

    With `check_predictions`, a record that its predictions contradict is excluded too.
    """
    records, excluded = load_records(results)
    for problem in read_tasks(configs)[1]:
        print(f"passed over: {problem}", file=sys.stderr)
    if check_predictions:
        records, contradicted = drop_contradicted(records, results)
        excluded += contradicted
    tables = build_tables(results, configs, records, excluded)
    by_path = {file.relative_path: file for table in tables for file in table.excluded}
    by_path |= {file.relative_path: file for file in excluded}
    return tables, [by_path[path] for path in sorted(by_path)]


def no_records(results: Path) -> UserError:
    """Returns the error for a folder without records."""
    return UserError(
        f"there are no records in {results / 'records'}: run a cell first (moppa run ...), or give a results folder"
    )


def list_excluded(excluded: list[Excluded], results: Path) -> str:
    """Returns one line for each excluded file, with the reason."""
    return "".join(f"excluded: {results / 'records' / file.relative_path}: {file.reason}\n" for file in excluded)


def drop_contradicted(records: list[ValidRecord], results: Path) -> tuple[list[ValidRecord], list[Excluded]]:
    """Returns the records that their files, links and neighbors do not contradict, and those that they do."""
    problems = {}
    for folder in (results, *submitted_packs(results)):
        for finding in verify_records(folder).findings:
            problems[relative_to(folder / "records" / finding.path, results / "records")] = finding.problem
    consistent = [record for record in records if record.relative_path not in problems]
    contradicted = [
        exclude_record(record, problems[record.relative_path]) for record in records if record.relative_path in problems
    ]
    return consistent, contradicted


def write_tables(results: Path, configs: Path, *, strict: bool = False) -> WrittenTables:
    """Writes `results/tables/SUITE-BACKBONE-PROTOCOL.{md,tex,csv,html}` for all records, and the tables of merges
    and of sequences of tasks.

    Raises:
        UserError: if `strict` and a record is excluded, also because its predictions contradict it. Nothing is written
            then.
    """
    tables, excluded = read_tables(results, configs, check_predictions=strict)
    merges, excluded_merges = read_merges(results, check_predictions=strict)
    excluded += excluded_merges
    if strict and excluded:
        raise UserError(
            f"nothing was written, because records had to be excluded ({len(excluded)}):\n"
            f"{list_excluded(excluded, results).rstrip()}"
        )
    written = []
    for table in tables:
        written += write_formats(table, FORMATS, results)
    merged = merge_tables(merges)
    written += [
        *write_merge_tables(merged, results),
        *write_summaries(merged, results),
        *write_continual_tables(results),
    ]
    return WrittenTables(tables=tables, written=written, excluded=excluded)
