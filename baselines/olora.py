"""OLoRA: Büyükakyüz, "OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models", arXiv 2406.01775."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.decompose import Factors, attach_reduced


def orthonormal_factors(matrix: Float[Tensor, "d_out d_in"], rank: int, scale: float) -> Factors:  # noqa: ARG001
    """Returns A, the first rows of R, and B, the first columns of Q, with Q R the matrix, for any scale."""
    q, r = torch.linalg.qr(matrix)
    return r[:rank], q[:, :rank]


def attach(model: nn.Module, *, rank: int, alpha: float, targets: Sequence[str]) -> None:
    """Trains `rank` components of the QR decomposition of each target (q, k, v, proj, fc1, fc2)."""
    attach_reduced(model, orthonormal_factors, rank=rank, alpha=alpha, targets=targets, method="OLoRA")
