"""The files of a record below a results folder: its predictions, its trained tensors, and the tune records it names."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from moppa.record.schema import read_record


def record_files(path: Path, results: Path, *, with_tensors: bool) -> list[Path]:
    """Returns the files that belong to the record at `path`, below `results` and in order, those that exist.

    The tune records on which its settings rest belong to it, with their predictions.
    """
    tuned = read_record(path).get("tuned") or {}
    records = [path, *(results / "records" / name for name in tuned.get("records", {}))]
    files = [file for record in records for file in (record, record.with_suffix(".npz"))]
    tensors = (results / "checkpoints" / path.relative_to(results / "records")).with_suffix(".safetensors")
    files += [tensors] if with_tensors else []
    return [file for file in files if file.is_file()]


def copy_files(files: Iterable[Path], folder: Path, out: Path) -> None:
    """Copies files below `folder` to the same places below `out`."""
    for file in dict.fromkeys(files):
        target = out / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
