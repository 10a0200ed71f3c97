"""LoRA-XS: Bałazy et al., "LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters".

arXiv 2405.17604; the authors' code: github.com/MohammadrezaBanaei/LoRA-XS.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.decompose import Factors, decompose_weight, truncated_svd
from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta, check_rank
from moppa.peft.targets import TargetLinear, target_linears
from moppa.utils import validate


def singular_factors(matrix: Float[Tensor, "d_out d_in"], rank: int, scale: float) -> Factors:  # noqa: ARG001
    """Returns A = S V^T and B = U of the largest singular values, as in the authors' code."""
    u, s, v_transposed = truncated_svd(matrix, rank)
    return s[:, None] * v_transposed, u


class LoRAXSDelta(LowRankDelta):
    """W' = W + (alpha / r) U R S V^T, with the r largest singular values of each matrix, and R = 0 at the start.

    Only R (r, r) is trained. The authors draw it with a standard deviation of 1e-5. U, S and V are never saved: the
    pretrained weight gives them again.
    """

    def __init__(self, target: TargetLinear, *, rank: int, alpha: float) -> None:
        super().__init__()
        self.is_adapted, self.scale = target.is_adapted, alpha / check_rank(rank, target.matrix_shape)
        downs, ups = decompose_weight(target, singular_factors, rank, self.scale)
        self.register_buffer("down", torch.stack(downs), persistent=False)
        self.register_buffer("up", torch.stack(ups), persistent=False)
        self.latent = nn.ParameterList(torch.zeros(rank, rank) for _ in downs)

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns S V^T and (alpha / r) U R of each adapted matrix."""
        ups = zip(self.get_buffer("up"), self.latent, strict=True)
        return list(self.get_buffer("down")), [self.scale * up @ latent for up, latent in ups]


def attach(model: nn.Module, *, rank: int, alpha: float, targets: Sequence[str]) -> None:
    """Adds to each target (q, k, v, proj, fc1, fc2) of every block an update between its own singular vectors."""
    validate.number("alpha", alpha, minimum=0, exclusive_minimum=True)
    for target in target_linears(model, targets, method="LoRA-XS"):
        parametrize_weights(target.layer, weight=LoRAXSDelta(target, rank=rank, alpha=alpha))
