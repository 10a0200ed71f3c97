"""Low-rank updates whose factors come from a decomposition of the pretrained weight: PiSSA, OLoRA, LoRA-XS."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta, check_rank
from moppa.peft.targets import TargetLinear, target_linears
from moppa.utils import validate

Factors = tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]
Decompose = Callable[[Float[Tensor, "d_out d_in"], int, float], Factors]  # (matrix, rank, alpha / rank) -> A and B


@torch.no_grad()
def decompose_weight(
    target: TargetLinear, decompose: Decompose, rank: int, scale: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns A and B of each adapted one of the matrices stacked in a layer's weight, computed in at least float32."""
    weight = target.layer.weight.detach()
    matrices = weight.to(torch.promote_types(weight.dtype, torch.float32)).chunk(len(target.is_adapted))
    adapted = zip(matrices, target.is_adapted, strict=True)
    pairs = [decompose(matrix, rank, scale) for matrix, is_adapted in adapted if is_adapted]
    return [down.contiguous() for down, _ in pairs], [up.contiguous() for _, up in pairs]


def truncated_svd(
    matrix: Float[Tensor, "d_out d_in"], rank: int
) -> tuple[Float[Tensor, "d_out rank"], Float[Tensor, " rank"], Float[Tensor, "rank d_in"]]:
    """Returns U, S and V^T of the `rank` largest singular values."""
    u, s, v_transposed = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank], s[:rank], v_transposed[:rank]


class ReducedWeightDelta(LowRankDelta):
    """W' = W - (alpha / r) B0 A0 + (alpha / r) B A for each adapted matrix, with A = A0 and B = B0 at the start.

    A0 and B0 are a part of W. The update is computed as (B - B0) A + B0 (A - A0), which is exactly zero at the start.
    They are never saved: the pretrained weight gives them again.
    """

    def __init__(self, target: TargetLinear, decompose: Decompose, *, rank: int, alpha: float) -> None:
        super().__init__()
        self.is_adapted, self.scale = target.is_adapted, alpha / check_rank(rank, target.matrix_shape)
        downs, ups = decompose_weight(target, decompose, rank, self.scale)
        self.down, self.up = (nn.ParameterList(factor.clone() for factor in factors) for factors in (downs, ups))
        self.register_buffer("first_down", torch.stack(downs), persistent=False)
        self.register_buffer("first_up", torch.stack(ups), persistent=False)

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns [A; A - A0] and (alpha / r) [B - B0, B0] of each adapted matrix."""
        downs = zip(self.down, self.get_buffer("first_down"), strict=True)
        ups = zip(self.up, self.get_buffer("first_up"), strict=True)
        return (
            [torch.cat([down, down - first]) for down, first in downs],
            [self.scale * torch.cat([up - first, first], dim=1) for up, first in ups],
        )


def attach_reduced(
    model: nn.Module, decompose: Decompose, *, rank: int, alpha: float, targets: Sequence[str], method: str
) -> None:
    """Trains the factors of a part of each target's weight, of rank `rank`: those of `decompose`."""
    validate.number("alpha", alpha, minimum=0, exclusive_minimum=True)
    for target in target_linears(model, targets, method=method):
        delta = ReducedWeightDelta(target, decompose, rank=rank, alpha=alpha)
        parametrize_weights(target.layer, weight=delta)
