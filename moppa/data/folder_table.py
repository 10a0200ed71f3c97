"""Reads the CSV that names the images of the user's own data: as spreadsheets and editors write it."""

import codecs
import csv
import io
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PureWindowsPath

from moppa.data.folder_files import Entry, Listing
from moppa.utils.errors import UserError

COLUMNS = ("path", "label", "split")
DELIMITERS = (",", ";", "\t")
WIDE_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

Row = tuple[int, list[str]]  # the number of its last line, and its cells


def list_table(table: Path, splits: Sequence[str]) -> Listing:
    """Returns the rows of a CSV in order. Paths are relative to its folder; an image's name is its path in the CSV.

    Commas, semicolons or tabs separate the cells. Blank lines and byte order marks do not count.

    Raises:
        UserError: if the file or one of its rows cannot be read. It names the line.
    """
    rows = iter_rows(table, read_text(table))
    number, header = next(rows, (1, []))
    if not header:
        raise UserError(f"{table} is empty: its first line must name {','.join(COLUMNS)}")
    names = [name.strip().lower() for name in header]
    if missing := [name for name in COLUMNS if name not in names]:
        raise UserError(f"{table} lacks the column {missing[0]}: line {number} must name {','.join(COLUMNS)}")
    entries, real_folder = [], cache(os.path.realpath)
    for number, cells in rows:
        if len(cells) != len(names):
            raise UserError(
                f"{table} line {number}: {len(cells)} cells, but the header has {len(names)}; a cell is missing, or a "
                f"path that holds the separator needs quotes"
            )
        path, label, split = (cells[names.index(name)] for name in COLUMNS)
        label, split = label.strip(), split.strip()
        if not (path and label and split):
            raise UserError(f"{table} line {number}: a path, a label or a split is missing; complete or delete it")
        if split not in splits:
            raise UserError(
                f"{table} line {number}: split {split!r} is not one of the task's ({', '.join(splits)}); correct it, "
                f"or task.splits"
            )
        file = file_of(table, number, path)
        real = os.path.realpath(file) if file.is_symlink() else f"{real_folder(file.parent)}{os.sep}{file.name}"
        entries.append(Entry(file, label, split, path, real))
    return Listing(entries)


def read_text(table: Path) -> str:
    """Returns the text of a CSV: UTF-8, or UTF-16 with a byte order mark."""
    try:
        data = table.read_bytes()
    except OSError as error:
        raise UserError(
            f"{table} cannot be read ({error.strerror or error}); name a CSV in data.dir with data.table=FILE"
        ) from error
    encoding = WIDE_MARKS.get(data[:2], "utf-8-sig")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{table} cannot be read: line {number} is not {encoding.removesuffix('-sig')} text; save it as CSV UTF-8"
        ) from error


def iter_rows(table: Path, text: str) -> Iterator[Row]:
    """Yields the rows that are not blank."""
    # the first line that is not blank decides; only a name of a column can precede its first separator
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{table} line {reader.line_num} cannot be read ({error}); correct its quotes") from error


def file_of(table: Path, number: int, path: str) -> Path:
    """Returns the file that a row names. A path may be written as on Windows."""
    file = table.parent / path
    if "\0" in path:
        raise UserError(f"{table} line {number}: {path!r} is not a path; correct it")
    return file if "\\" not in path or file.exists() else table.parent / PureWindowsPath(path)
