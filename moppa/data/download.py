"""A data set that TFDS has not prepared yet is announced, downloaded and prepared as array_record, or its way is told.

Source of what the two manual downloads consist of: TFDS's builders, `MANUAL_DOWNLOAD_INSTRUCTIONS` and code.
"""

import sys
from pathlib import Path
from typing import Any

from filelock import FileLock

from moppa.data.disk_space import format_bytes
from moppa.data.task import Task
from moppa.utils.errors import UserError

EXTRA = "pip install -c constraints.txt -e '.[prepare]'"
# builder: what its page gives, and how it must lie in the folder for manual downloads
MANUAL_DOWNLOADS = {
    "resisc45": "unpack NWPU-RESISC45.rar there, so that NWPU-RESISC45/airplane/ and its 44 siblings lie in it",
    "diabetic_retinopathy_detection": (
        "join and unpack Kaggle's train, test and sample archives there as train/, test/ and sample/, and put "
        "trainLabels.csv and sampleSubmission.csv beside them"
    ),
}


def how_to_get(task: Task, data_dir: str) -> str:
    """The way to the data set of a task, as a sentence's end."""
    name = task.builder.partition(":")[0].partition("/")[0]
    command = f"{EXTRA} && python scripts/prepare_data.py task={task.name} data.dir={data_dir}"
    if name not in MANUAL_DOWNLOADS:
        return command
    return f"by hand first: {MANUAL_DOWNLOADS[name]} ({manual_folder(data_dir)}); then: {command}"


def manual_folder(data_dir: str) -> Path:
    """Where TFDS looks for what a person has to download."""
    return Path(data_dir).expanduser() / "downloads" / "manual"


def download_and_prepare(builder: Any, task: Task, data_dir: str) -> None:
    """Says what is downloaded and where to, then does it; of two runs at once, the second waits for the first.

    Raises:
        UserError: where a person has to download something, TensorFlow is missing, or the download fails.
    """
    name = builder.info.full_name
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not is_filled(manual_folder(data_dir)):
        raise UserError(
            f"task {task.name}: {name} has to be downloaded by hand, from {builder.info.homepage} (TFDS says how in "
            f"MANUAL_DOWNLOAD_INSTRUCTIONS of {type(builder).__module__}); get it {how_to_get(task, data_dir)}"
        )
    print(f"task {task.name}: downloading {name} ({download_size(builder)}) into {builder.data_path}", file=sys.stderr)
    try:
        Path(data_dir).expanduser().mkdir(parents=True, exist_ok=True)
        with FileLock(Path(data_dir).expanduser() / f".{name.replace('/', '-')}.lock"):
            if not builder.is_prepared():
                builder.download_and_prepare(file_format="array_record")
    except ImportError as error:
        raise UserError(
            f"task {task.name}: TFDS needs {error.name or 'TensorFlow'} to prepare {name}, which is not installed "
            f"({first_line(error)}); {EXTRA}"
        ) from error
    except Exception as error:  # whatever a builder meets on the way: the network, the disk, an archive that changed
        raise UserError(
            f"task {task.name}: {name} could not be prepared in {data_dir} ({type(error).__name__}: "
            f"{first_line(error)}); mend that and run it again (what was downloaded is kept), or get it elsewhere: "
            f"{how_to_get(task, data_dir)}"
        ) from error


def is_filled(folder: Path) -> bool:
    """Whether there is anything in a folder."""
    return folder.is_dir() and any(folder.iterdir())


def download_size(builder: Any) -> str:
    """What is downloaded at most: TFDS's own figure, else the sum over the builder's files, of all its variants."""
    known = int(builder.info.download_size) or sum(info.size for info in (builder.url_infos or {}).values())
    return f"at most {format_bytes(known)}" if known else "of unknown size"


def first_line(error: BaseException) -> str:
    """What an error says first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
