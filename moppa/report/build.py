"""Every table in every format, from records to files."""

from dataclasses import dataclass
from pathlib import Path

from moppa.report.load import Excluded, ValidRecord, correctness, exclude_record, load_records
from moppa.report.render import latex_html, markdown
from moppa.report.table import Table, tables_of
from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError

FORMATS = {"md": markdown.markdown, "tex": latex_html.latex, "csv": markdown.as_csv, "html": latex_html.html}


@dataclass(frozen=True, kw_only=True)
class Made:
    """What was made of the records: the tables, the files written, and the records left out."""

    tables: list[Table]
    written: list[Path]
    left_out: list[Excluded]


def read_tables(results: Path, configs: Path, *, check_predictions: bool = False) -> tuple[list[Table], list[Excluded]]:
    """The tables, and every record that none of them rests on."""
    records, left_out = load_records(results)
    if check_predictions:
        records, false = agreeing(records)
        left_out += false
    tables = tables_of(results, configs, records, left_out)
    found = {one.place: one for table in tables for one in table.left_out} | {one.place: one for one in left_out}
    return tables, [found[place] for place in sorted(found)]


def list_excluded(left_out: list[Excluded], results: Path) -> str:
    """Each file that no number rests on and why, one a line."""
    return "".join(f"left out: {results / 'records' / one.place}: {one.reason}\n" for one in left_out)


def agreeing(records: list[ValidRecord]) -> tuple[list[ValidRecord], list[Excluded]]:
    """The records whose predictions are missing or agree with them, and those whose do not."""
    kept, left_out = [], []
    for one in records:
        try:
            correctness(one)
            kept.append(one)
        except UserError as error:
            left_out.append(exclude_record(one, str(error)))
    return kept, left_out


def write_tables(results: Path, configs: Path, *, strict: bool = False) -> Made:
    """Writes `results/tables/SUITE-BACKBONE-PROTOCOL.{md,tex,csv,html}` for all that there are records of.

    Raises:
        UserError: under `strict`, where a record had to be left out or its predictions contradict it; nothing is
            written then.
    """
    tables, left_out = read_tables(results, configs, check_predictions=strict)
    if strict and left_out:
        raise UserError(
            f"{len(left_out)} records cannot be counted, and nothing was written:\n{list_excluded(left_out, results).rstrip()}"
        )
    written = []
    for table in tables:
        for suffix, render in FORMATS.items():
            path = results / "tables" / f"{table.name}.{suffix}"
            with atomic_write(path) as temporary:
                temporary.write_text(render(table))
            written.append(path)
    return Made(tables=tables, written=written, left_out=left_out)
