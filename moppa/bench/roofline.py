"""What the machine can do: the rate of its matrix products and of its copies."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from moppa.bench.timing import interleaved
from moppa.utils.device import device_info
from moppa.utils.matmul import linear, matmul_backend

SIDE = {"cpu": 2048, "cuda": 8192}
COPIED_BYTES = 1 << 28


def measure_machine(device: torch.device, *, rounds: int) -> dict[str, Any]:
    """Operations a second of a square product in the arithmetic of a training step, and bytes a second of a copy.

    The product is the faster of torch's own and the one in use.

    Both in their fastest round, since what is held to them should not beat them. A copy counts what it reads and what
    it writes.
    """
    side = SIDE[device.type]
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    if device.type == "cuda":  # what its training computes in
        a, b = a.bfloat16(), b.bfloat16()
    source = torch.empty(COPIED_BYTES // 4, device=device).fill_(1.0)
    target = torch.empty_like(source)
    works = {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}
    if matmul_backend() != "torch":
        works["product in use"] = lambda: linear(a.view(16, -1, side), b, None)
    seconds = interleaved(works, device, rounds, typical=min)
    return {
        **describe(device),
        "gemm_flops_per_second": 2 * side**3 / min(value for name, value in seconds.items() if "product" in name),
        "torch_gemm_flops_per_second": 2 * side**3 / seconds["product"],
        "gemm_dtype": str(a.dtype).removeprefix("torch."),
        "copy_bytes_per_second": 2 * COPIED_BYTES / seconds["copy"],
    }


def describe(device: torch.device) -> dict[str, Any]:
    """The device by name, as a reader would know it, and how many threads compute."""
    facts = device_info(device)
    if device.type == "cpu":
        facts |= {"name": processor(), "cores": os.cpu_count()}
    return facts | {"torch": torch.__version__}


def processor() -> str:
    """The processor's model, where the system says."""
    listed = Path("/proc/cpuinfo")
    if not listed.exists():
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in listed.read_text().splitlines() if ":" in line)
    return next((value.strip() for name, value in facts.items() if name.strip() == "model name"), platform.machine())
