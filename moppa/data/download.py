"""Downloads and prepares TFDS data sets as array_record files, or explains how to get those that need manual steps.

Source for the two manual downloads: the builders of TFDS, their `MANUAL_DOWNLOAD_INSTRUCTIONS` and their code.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from moppa.data.disk_space import format_bytes
from moppa.data.task import Task
from moppa.data.tfds_network import limited_downloads
from moppa.data.tfds_without_tensorflow import without_tensorflow
from moppa.utils.errors import UserError, first_line
from moppa.utils.locks import file_lock
from moppa.utils.network import PROXY_HINT, NoAnswerError
from moppa.utils.paths import IS_CHECKOUT, user_path

LIBRARIES = {  # by module: its name and the extra that installs it
    "cv2": ("OpenCV", "opencv"),
    "h5py": ("h5py", "harness"),
    "tensorflow": ("TensorFlow", "prepare"),
}
WITH_OPENCV = ("diabetic_retinopathy_detection", "kitti", "sun397")  # builders that resize or decode with it
MANUAL_DOWNLOADS = {  # by builder: the layout that TFDS expects in the folder for manual downloads
    "resisc45": "unpack NWPU-RESISC45.rar there, so that it holds NWPU-RESISC45/airplane/ and the 44 other classes",
    "diabetic_retinopathy_detection": (
        "join and unpack Kaggle's train, test and sample archives there as train/, test/ and sample/, and put "
        "trainLabels.csv and sampleSubmission.csv beside them"
    ),
}


def builder_name(task: Task) -> str:
    """Returns the name of the task's TFDS builder without its config and version."""
    return task.builder.partition(":")[0].partition("/")[0]


def how_to_get(task: Task, data_dir: str) -> str:
    """Returns the command that gets the data set of a task, after the manual steps if it needs any."""
    command = f"moppa data prepare task={task.name} data.dir={data_dir}"
    if builder_name(task) in WITH_OPENCV and not find_spec("cv2"):
        command = f"{install_extra('opencv')} && {command}"
    steps = MANUAL_DOWNLOADS.get(builder_name(task))
    return f"by hand first: {steps} ({manual_folder(data_dir)}); then: {command}" if steps else command


def install_extra(extra: str) -> str:
    """Returns the command that installs an extra of moppa."""
    return f"pip install -c constraints.txt -e '.[{extra}]'" if IS_CHECKOUT else f"pip install 'moppa[{extra}]'"


def manual_folder(data_dir: str) -> Path:
    """Returns the folder in which TFDS looks for manual downloads."""
    return user_path(data_dir) / "downloads" / "manual"


def download_and_prepare(builder: Any, task: Task, data_dir: str) -> None:
    """Announces a download, then downloads and prepares the data set. A second process waits for the first.

    Raises:
        UserError: if the data set needs a manual download, TensorFlow is missing, or the download fails.
    """
    name, folder = builder.info.full_name, user_path(data_dir)
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not has_files(manual_folder(data_dir)):
        raise UserError(
            f"task {task.name}: {name} has to be downloaded by hand, from {builder.info.homepage} (TFDS says how in "
            f"MANUAL_DOWNLOAD_INSTRUCTIONS of {type(builder).__module__}); get it {how_to_get(task, data_dir)}"
        )
    print(f"task {task.name}: downloading {name} ({download_size(builder)}) into {builder.data_path}", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f".{name.replace('/', '-')}.lock"
        with file_lock(file, waiting=f"another run downloads {name}: waiting for it"):
            if not builder.is_prepared():
                with limited_downloads(), without_tensorflow(builder):
                    builder.download_and_prepare(file_format="array_record")
    except NoAnswerError as error:
        raise UserError(
            f"task {task.name}: {name} cannot be downloaded: {error}; run it again where there is a connection "
            f"(finished downloads are kept), or copy data.dir={data_dir} or the folder of data.cache from a machine "
            f"that has the data; {PROXY_HINT}"
        ) from error
    except UserError:
        raise
    except ImportError as error:
        library, extra = LIBRARIES.get(missing_module(error), (missing_module(error), "prepare"))
        raise UserError(
            f"task {task.name}: TFDS needs {library} to prepare {name}, which is not installed "
            f"({first_line(error)}); {install_extra(extra)}"
        ) from error
    except Exception as error:  # a builder can fail in any way: the network, the disk, a changed archive
        raise UserError(
            f"task {task.name}: {name} could not be prepared in {data_dir} ({type(error).__name__}: "
            f"{first_line(error)}); fix that and run it again (finished downloads are kept), or get it elsewhere: "
            f"{how_to_get(task, data_dir)}"
        ) from error


def missing_module(error: BaseException | None) -> str:
    """Returns the name of the module that could not be imported. TFDS raises errors again without it."""
    while error is not None:
        if isinstance(error, ImportError) and error.name:
            return error.name.partition(".")[0]
        error = error.__cause__ or error.__context__
    return "a library"


def has_files(folder: Path) -> bool:
    """Returns whether a folder exists and is not empty."""
    return folder.is_dir() and any(folder.iterdir())


def download_size(builder: Any) -> str:
    """Returns the maximum size of the download: the figure of TFDS, or the sum over all files of the builder."""
    num_bytes = int(builder.info.download_size) or sum(info.size for info in (builder.url_infos or {}).values())
    return f"at most {format_bytes(num_bytes)}" if num_bytes else "of unknown size"
