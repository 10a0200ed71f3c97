"""The matrices and vectors of a transformer of which SPT tunes some as a whole and some in part."""

from dataclasses import dataclass, replace
from itertools import compress

from torch import Tensor, nn

from moppa.peft.low_rank import check_rank
from moppa.peft.sensitivity import Members, Piece
from moppa.peft.targets import TARGETS, TargetLinear, check_calls_qkv, target_linears


@dataclass(kw_only=True, eq=False)
class MatrixPiece(Piece):
    """A matrix of a linear layer, one of those stacked in the layer's weight. As a whole it is tuned by a structure."""

    target: TargetLinear

    def positions(self, sensitive: Tensor) -> Tensor:
        """Returns which weights of the flat tensor are tuned one by one."""
        return sensitive[:0] if self.is_whole(sensitive) else super().positions(sensitive)


def find_pieces(model: nn.Module, structure: str, rank: int, matrix_ratio: float, vector_ratio: float) -> list[Piece]:
    """Returns the matrices of all blocks, with q, k and v apart, their biases, and the vectors of all norms.

    A norm's vector is tuned as a whole or not at all: the authors count single weights of norms and never train them.
    """
    pieces: list[Piece] = []
    for target in target_linears(model, TARGETS, method="SPT"):
        d_out, d_in = target.matrix_shape
        check_rank(rank, target.matrix_shape)
        if structure == "adapter" and target.name == "qkv":
            check_calls_qkv(target.owner, method="SPT-Adapter")
        cost = rank * (d_in + d_out) if structure == "lora" else 2 * rank * d_out + rank + d_out
        for index in range(len(target.is_adapted)):
            pieces.append(
                MatrixPiece(
                    layer=target.layer,
                    tensor="weight",
                    start=index * d_out,
                    stop=(index + 1) * d_out,
                    whole_cost=cost,
                    whole_from=cost / matrix_ratio,
                    is_divisible=True,
                    target=target,
                )
            )
        pieces += vector_pieces(target.layer, "bias", vector_ratio, count=len(target.is_adapted), is_divisible=True)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            for tensor in ("weight", "bias"):
                pieces += vector_pieces(module, tensor, vector_ratio, count=1, is_divisible=False)
    return pieces


def vector_pieces(layer: nn.Module, tensor: str, vector_ratio: float, *, count: int, is_divisible: bool) -> list[Piece]:
    """Returns `count` equal pieces of a vector or of stacked matrices, or none if the layer has no such tensor."""
    vector = getattr(layer, tensor, None)
    if vector is None:
        return []
    size = len(vector) // count
    return [
        Piece(
            layer=layer,
            tensor=tensor,
            start=index * size,
            stop=(index + 1) * size,
            whole_cost=size,
            whole_from=size / vector_ratio,
            is_divisible=is_divisible,
        )
        for index in range(count)
    ]


def adapted_matrices(target: TargetLinear) -> list[Piece]:
    """Returns the adapted ones of the matrices that are stacked in a layer's weight."""
    matrices = vector_pieces(target.layer, "weight", 1.0, count=len(target.is_adapted), is_divisible=True)
    return list(compress(matrices, target.is_adapted))


def structured_target(members: Members) -> TargetLinear | None:
    """Returns the layer and which of its matrices get a structure, or None if none does."""
    is_whole = {piece: piece.is_whole(index) for piece, index in members if isinstance(piece, MatrixPiece)}
    if not any(is_whole.values()):
        return None
    return replace(next(iter(is_whole)).target, is_adapted=tuple(is_whole.values()))
