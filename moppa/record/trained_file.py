"""The file with the trained tensors of a finished cell: where it lies, and what it must be to be read."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from moppa.utils.atomic import sha256_file
from moppa.utils.errors import UserError


def read_trained(path: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the trained tensors of a record by name.

    Raises:
        UserError: if they were not kept or have changed.
    """
    file = trained_path(path)
    if not file.is_file():
        raise UserError(
            f"{file} does not exist: the cell ran with run.keep_trained=false or on another machine; delete {path} "
            f"and run the cell again"
        )
    if sha256_file(file) != record.get("trained", {}).get("sha256"):
        raise UserError(f"{file} is not the file that {path} was evaluated with: delete both and run the cell again")
    return safetensors.torch.load_file(file)


def trained_path(path: Path) -> Path:
    """Returns the path of a record's trained tensors, which mirrors the record's: checkpoints/ instead of records/.

    Raises:
        UserError: if the record is not in a results folder.
    """
    files = [
        results / "checkpoints" / record.relative_to(results / "records").with_suffix(".safetensors")
        for results, record in results_folders(path)
    ]
    return next((file for file in files if file.is_file()), files[0])


def results_folders(path: Path) -> list[tuple[Path, Path]]:
    """Returns the results folders that a record is in, each with the record's path below it, the likeliest first.

    Raises:
        UserError: if it is in none.
    """
    found = [
        (root.parent, place)
        for place in (Path(os.path.abspath(path)), path.resolve())  # noqa: PTH100 - the folder may be a link
        for root in place.parents
        if root.name == "records"
    ]
    if not found:
        raise UserError(f"{path} is not in a results folder (.../records/...): give the record at its original path")
    return found
