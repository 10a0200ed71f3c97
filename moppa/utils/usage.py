"""What a cell used: seconds by phase, peak memory, and whether other work ran beside its training."""

import ctypes
import gc
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

PROC = Path("/proc")
SAMPLE_SECONDS = 0.02  # between two readings of the memory, if the system cannot reset its own peak
OTHER_CORES = 0.25  # other work that kept less than this share of one core busy does not count
SHORTEST_SECONDS = 0.5  # below, the system's clock ticks are too coarse to tell


class Usage:
    """Measures one cell. The peak memory counts from when the object is created."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self.alone: bool | None = None
        self.memory = PeakMemory(device)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Times a block; several blocks of one phase add up."""
        started = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started

    @contextmanager
    def training(self) -> Iterator[None]:
        """Finds out whether other work runs while the block does."""
        started, cpu = time.perf_counter(), other_cpu_seconds()
        yield
        self.alone = ran_alone(cpu, other_cpu_seconds(), time.perf_counter() - started)

    def for_record(self) -> dict[str, Any]:
        """Returns the fields of a record, without the seconds."""
        peak, scope = self.memory.peak()
        return {"peak_memory_bytes": peak, "peak_memory_scope": scope, "alone": self.alone}


def ran_alone(before: float | None, after: float | None, seconds: float) -> bool | None:
    """Returns whether others used less than `OTHER_CORES` of a core on average; None if that cannot be told."""
    if before is None or after is None or seconds < SHORTEST_SECONDS:
        return None
    return (after - before) / seconds < OTHER_CORES


def other_cpu_seconds() -> float | None:
    """Returns the CPU time since boot of everything but this process, over all cores; None where there is no /proc.

    Time that a hypervisor gave to another machine counts as others' too.
    """
    try:
        ticks = (PROC / "stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy - time.process_time()


class PeakMemory:
    """The peak memory from here on: of torch's allocator on a GPU, else of the resident pages of this process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sampler: MemorySampler | None = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif (PROC / "self" / "statm").exists():
            release_freed_memory()
            self.sampler = None if reset_peak() else MemorySampler()
        self.start = held_bytes(device)

    def added(self) -> int | None:
        """Returns how many bytes the peak lies above what was held at the start; None if the system cannot tell."""
        peak, scope = self.peak()
        return None if peak is None or self.start is None or scope != "cell" else max(peak - self.start, 0)

    def peak(self) -> tuple[int | None, str]:
        """Returns bytes, and `cell` or, if the peak may be that of an earlier cell in the process, `process`."""
        if self.sampler is not None:
            return self.sampler.stop(), "cell"
        if self.device.type == "cpu" and (peak := status_bytes("VmHWM")) is not None:
            return peak, "cell"
        return peak_memory_bytes(self.device), "cell" if self.device.type == "cuda" else "process"


def release_freed_memory() -> None:
    """Returns to the system what earlier cells of this process have freed. Without glibc it only collects garbage."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak() -> bool:
    """Sets the peak of this process's resident memory to what it holds now. Returns whether the system allows it."""
    try:
        (PROC / "self" / "clear_refs").write_text("5")
    except OSError:
        return False
    peak, current = status_bytes("VmHWM"), status_bytes("VmRSS")
    return peak is not None and current is not None and peak <= 1.1 * current


def status_bytes(name: str) -> int | None:
    """Returns a value of /proc/self/status, in bytes; None where there is none."""
    with suppress(OSError):
        for line in (PROC / "self" / "status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def held_bytes(device: torch.device) -> int | None:
    """Returns the memory of torch's allocator on a GPU, else the resident memory of this process; None if unknown."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else status_bytes("VmRSS")


def peak_memory_bytes(device: torch.device) -> int | None:
    """Returns the peak memory of torch's allocator on a GPU, else of this process; None if the system cannot tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if os.name != "posix":
        return None
    import resource  # only on POSIX systems

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes


class MemorySampler:
    """A thread that reads the resident memory of this process at short intervals and keeps the maximum."""

    def __init__(self) -> None:
        self.peak = resident_bytes()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        """Samples until `stop` is called."""
        while not self.stopped.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, resident_bytes())

    def stop(self) -> int:
        """Ends the thread and returns the peak in bytes."""
        self.stopped.set()
        self.thread.join()
        return max(self.peak, resident_bytes())


def resident_bytes() -> int:
    """Returns the resident memory of this process on Linux."""
    return int((PROC / "self" / "statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
