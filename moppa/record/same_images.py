"""Checks that the records of a cell are of the images that its source holds now."""

from moppa.data.source import Source, SourceWithContent
from moppa.data.task import Task
from moppa.record.cell import Cell
from moppa.record.schema import read_record
from moppa.utils.errors import UserError


def check_same_images(cell: Cell, task: Task, source: Source) -> None:
    """Raises `UserError` if a record of this cell, of any seed, was computed from other files of the user.

    The folder of the images is not in the key of a cell, so that they may be moved; their content decides.
    """
    if not isinstance(source, SourceWithContent):
        return
    for path in sorted(cell.record.parent.glob("seed*.json")):
        for split, content in (read_record(path)["split"].get("content") or {}).items():
            if source.content(task, split) != content:
                raise UserError(
                    f"{path} was computed from other images or labels of {split} than {cell.config['data']['dir']} "
                    f"holds (data.dir); raise the task's version, choose another folder with run.results=DIR, or get "
                    f"the earlier images back"
                )
