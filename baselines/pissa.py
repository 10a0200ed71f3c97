"""PiSSA: Meng et al., "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models".

NeurIPS 2024, arXiv 2404.02948; the authors' code: github.com/GraphPKU/PiSSA.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.decompose import Factors, attach_reduced, truncated_svd


def principal_factors(matrix: Float[Tensor, "d_out d_in"], rank: int, scale: float) -> Factors:
    """Returns A = (S / scale)^(1/2) V^T and B = U (S / scale)^(1/2) of the largest singular values."""
    u, s, v_transposed = truncated_svd(matrix, rank)
    root = (s / scale).sqrt()
    return root[:, None] * v_transposed, u * root


def attach(model: nn.Module, *, rank: int, alpha: float, targets: Sequence[str]) -> None:
    """Trains the `rank` largest singular components of each target (q, k, v, proj, fc1, fc2)."""
    attach_reduced(model, principal_factors, rank=rank, alpha=alpha, targets=targets, method="PiSSA")
