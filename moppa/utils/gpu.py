"""Whether there is a GPU, and the precision that follows. Imports torch only on a machine with a GPU driver."""

import ctypes
import os
import sys
from pathlib import Path

from moppa.utils import validate
from moppa.utils.errors import SettingError

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
ROCM_DEVICE = Path("/dev/kfd")
# a record's dtype by `run.precision`; bf16 stores frozen weights and activations in bfloat16 too
DTYPES = {"float32": "float32", "bf16-mixed": "bfloat16", "bf16": "bfloat16-backbone"}


def has_gpu() -> bool:
    """Returns whether torch can compute on a GPU here."""
    if "torch" not in sys.modules and not has_driver():
        return False
    import torch

    return torch.cuda.is_available()


def has_driver() -> bool:
    """Returns whether a driver is installed that torch could use."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return ROCM_DEVICE.exists()
    return True


def visible_gpus() -> list[str]:
    """Returns the GPUs as CUDA_VISIBLE_DEVICES names them, or the numbers of all GPUs."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is not None:
        return [name.strip() for name in names.split(",") if name.strip()]
    if not has_driver():
        return []
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def gpu_of_job(number: int) -> str:
    """Returns the GPU of a job of a sweep, so that consecutive jobs have different GPUs. Without a GPU it is empty."""
    gpus = visible_gpus()
    return gpus[number % len(gpus)] if gpus else ""


def num_gpu_workers(cells_per_gpu: int) -> int:
    """Returns how many cells run at a time with MOPPA_CELLS_PER_GPU, or else `cells_per_gpu`, on every GPU.

    Raises:
        SettingError: if the number is not one of at least 1.
    """
    name = "MOPPA_CELLS_PER_GPU"
    text = os.environ.get(name) or str(cells_per_gpu)
    return max(1, len(visible_gpus())) * validate.integer(name, int(text) if text.isdigit() else text, minimum=1)


def device_type(name: str) -> str:
    """Returns cpu or cuda for `run.device`; auto is the GPU if there is one, else the CPU.

    Raises:
        SettingError: if the name is unknown, or cuda without a GPU.
    """
    validate.one_of("run.device", name, ("auto", "cpu", "cuda"))
    if name == "cpu":
        return "cpu"
    if has_gpu():
        return "cuda"
    if name == "cuda":
        raise SettingError("run.device", "='cuda': torch sees no GPU here; use run.device=cpu or run.device=auto")
    return "cpu"


def precision_name(name: str, device_type: str) -> str:
    """Returns float32, bf16-mixed or bf16 for `run.precision`; auto is bf16-mixed on a GPU, else float32.

    Raises:
        SettingError: if the name is unknown.
    """
    validate.one_of("run.precision", name, ("auto", *DTYPES))
    return ("bf16-mixed" if device_type == "cuda" else "float32") if name == "auto" else name


def dtype_name(device_name: str, precision: str) -> str:
    """Returns the dtype in which a cell with this `run.device` and `run.precision` computes; it is part of its key.

    `cuda` needs no GPU here, so that a login node can plan cells that run elsewhere.
    """
    return DTYPES[precision_name(precision, "cuda" if device_name == "cuda" else device_type(device_name))]
