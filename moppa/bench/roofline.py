"""The upper bounds of a machine: the throughput of its matrix products and of its copies."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from moppa.bench.timing import interleaved
from moppa.utils.device import device_info
from moppa.utils.matmul import linear, matmul_backend

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
COPIED_BYTES = 1 << 28


def measure_machine(device: torch.device, *, rounds: int) -> dict[str, Any]:
    """Returns the operations per second of a square matrix product and the bytes per second of a copy.

    The product has the dtype of a training step and is the faster of torch's own and that of the matmul backend. A
    copy counts the bytes that it reads and those that it writes. Both are taken from the fastest round, because they
    serve as upper bounds.
    """
    side = MATRIX_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    if device.type == "cuda":  # the dtype of training
        a, b = a.bfloat16(), b.bfloat16()
    source = torch.empty(COPIED_BYTES // 4, device=device).fill_(1.0)
    target = torch.empty_like(source)
    functions = {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}
    if matmul_backend() != "torch":
        functions["product of backend"] = lambda: linear(a.view(16, -1, side), b, None)
    seconds = interleaved(functions, device, rounds, reduce=min)
    product_seconds = min(value for name, value in seconds.items() if "product" in name)
    return {
        **describe_machine(device),
        "gemm_flops_per_second": 2 * side**3 / product_seconds,
        "torch_gemm_flops_per_second": 2 * side**3 / seconds["product"],
        "gemm_dtype": str(a.dtype).removeprefix("torch."),
        "copy_bytes_per_second": 2 * COPIED_BYTES / seconds["copy"],
    }


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Returns what a record says of the device, with the name of the processor, its cores and the version of torch."""
    facts = device_info(device)
    if device.type == "cpu":
        facts |= {"name": processor_name(), "cores": os.cpu_count()}
    return facts | {"torch": torch.__version__}


def processor_name() -> str:
    """Returns the processor's model, or its architecture if the system does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in cpuinfo.read_text(encoding="utf-8").splitlines() if ":" in line)
    return next((value.strip() for name, value in facts.items() if name.strip() == "model name"), platform.machine())
