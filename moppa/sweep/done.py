"""A cell that has a record already: says so, and adds to the record how its settings were chosen."""

import json

from moppa.record.cell import Cell
from moppa.record.schema import read_record
from moppa.utils.atomic import write_json


def report_done(cell: Cell) -> None:
    """Prints that a cell is done. If `hparams=best` selected its settings, its record names the tune records then.

    How a setting was chosen changes neither the key nor the outcome, so that a cell which ran with the same values
    given is the selected one.
    """
    if cell.tuned is None or read_record(cell.record).get("tuned") == cell.tuned:
        print(f"done already: {cell.record}")
        return
    record = json.loads(cell.record.read_text(encoding="utf-8"))
    record["tuned"] = cell.tuned
    write_json(cell.record, record)
    print(f"done already, now with the tune records that select its settings: {cell.record}")
