"""The machine that a cell runs on: device, threads and memory."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from moppa.utils import validate
from moppa.utils.bf16_matmul import bf16_products
from moppa.utils.gpu import device_type
from moppa.utils.matmul import matmul_backend, set_matmul_backend, use_backend

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
MAX_MMAP_THRESHOLD = 32 << 20  # bytes, the largest value that glibc accepts


def get_device(name: str) -> torch.device:
    """Returns the device for `run.device`; auto is the GPU if there is one, else the CPU."""
    return torch.device(device_type(name))


def configure_process(*, threads: int | None, backend: str, keep_memory: bool) -> None:
    """Applies `run.threads`, `run.matmul_backend` and `run.keep_memory` to this process.

    `threads` None leaves torch its default: all cores, or OMP_NUM_THREADS. On a GPU the peak memory counts from here.
    """
    if threads is not None:
        torch.set_num_threads(validate.integer("run.threads", threads, minimum=1))
    set_matmul_backend(backend)
    if validate.boolean("run.keep_memory", keep_memory):
        keep_freed_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        torch.backends.cudnn.allow_tf32 = False  # run.precision=float32 means it for convolutions too


def set_deterministic(is_deterministic: bool) -> None:
    """Applies `run.deterministic` to this process: on a GPU torch then takes kernels that add in one order.

    An operation that has no such kernel ends in torch's error, which names it. A CPU adds in one order anyway.
    """
    is_applied = validate.boolean("run.deterministic", is_deterministic) and torch.cuda.is_available()
    if is_applied:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first product
    torch.use_deterministic_algorithms(is_applied)
    torch.utils.deterministic.fill_uninitialized_memory = not is_applied  # type: ignore[attr-defined]  # costs time


def keep_freed_memory() -> None:
    """Lets glibc keep the memory that a step frees for the next one. Without glibc it does nothing.

    By default glibc returns large blocks to the system, which clears every page when it is allocated again.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_MMAP_THRESHOLD, MAX_MMAP_THRESHOLD)


@contextmanager
def forward_context(device: torch.device, precision: str) -> Iterator[None]:
    """Runs a forward pass in its precision: in bfloat16 autocast, or in float32 with `run.matmul_backend`."""
    if precision == "float32":
        with use_backend():
            yield
    else:
        with torch.autocast(device.type, dtype=torch.bfloat16), bf16_products(device, precision):
            yield


def device_info(device: torch.device) -> dict[str, Any]:
    """Returns what a record says about the device. On a CPU, threads and matmul backend decide the order of sums."""
    threads = torch.get_num_threads()
    if device.type == "cuda":
        return {"type": "cuda", "name": torch.cuda.get_device_name(device), "threads": threads}
    return {
        "type": "cpu",
        "name": platform.machine(),
        "processor": processor_name(),
        "threads": threads,
        "matmul_backend": matmul_backend(),
    }


@lru_cache
def processor_name() -> str | None:
    """Returns the model of the CPU, or None if the system does not name it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
