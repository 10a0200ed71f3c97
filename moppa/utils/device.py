"""The machine that a cell runs on: its device, its arithmetic, its clock and its memory."""

import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from moppa.utils import validate
from moppa.utils.errors import UserError
from moppa.utils.matmul import matmul_backend, set_matmul_backend

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def get_device(name: str) -> torch.device:
    """The device for `run.device`: auto takes a GPU where there is one. Its peak memory counts from here."""
    validate.one_of("run.device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("run.device='cuda': torch sees no GPU here; use run.device=cpu or run.device=auto")
    if name != "cpu" and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def configure_process(threads: int | None, products: str, *, keep_memory: bool) -> None:
    """How this process computes on a CPU: `run.threads`, `run.matmul_backend` and `run.keep_memory`."""
    set_num_threads(threads)
    set_matmul_backend(products)
    if validate.boolean("run.keep_memory", keep_memory):
        keep_freed_memory()


def set_num_threads(number: int | None) -> None:
    """Lets torch compute with `run.threads` CPU threads; None leaves it its choice: all cores, or OMP_NUM_THREADS."""
    if number is not None:
        torch.set_num_threads(validate.integer("run.threads", number, minimum=1))


def keep_freed_memory() -> None:
    """From now on the memory that a step frees stays with this process, for the next one. Without glibc: as it was.

    glibc would hand it back, and the system would clear it page by page when it is asked for again.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest that glibc takes


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 autocast on a GPU, plain float32 elsewhere."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def device_info(device: torch.device) -> dict[str, Any]:
    """What a record says of the device; on a CPU, threads and library decide the order of sums."""
    if device.type == "cuda":
        return {"type": "cuda", "name": torch.cuda.get_device_name(device), "threads": torch.get_num_threads()}
    return {
        "type": "cpu",
        "name": platform.machine(),
        "threads": torch.get_num_threads(),
        "products": matmul_backend(),
    }


def peak_memory_bytes(device: torch.device) -> int | None:
    """The most that was held: on a GPU by torch's allocator, else by the process; None where the system cannot say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if os.name != "posix":
        return None
    import resource  # exists on POSIX systems only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes


class PhaseTimer:
    """Seconds by phase of the work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Times one phase; a phase in two pieces is summed."""
        began = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began
