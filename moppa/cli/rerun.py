"""Runs the cell of a record again, for `moppa verify --rerun`."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from moppa.cli.run import import_run
from moppa.record.reevaluate import NotEvaluatedError
from moppa.record.rerun import find_difference, rerun_config
from moppa.record.schema import read_record
from moppa.utils.errors import UserError


def rerun(path: Path, settings: Mapping[str, str]) -> str:
    """Returns how a new run of a record's cell differs from the record, or an empty string.

    `settings` say where images and weights are, if the paths in the record do not lead there.

    Raises:
        NotEvaluatedError: if the cell cannot be run here.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = rerun_config(read_record(path), settings, Path(folder))
        try:
            again = import_run().run_cell(config).record
        except UserError as error:
            raise NotEvaluatedError(str(error)) from error
        return find_difference(path, again)
