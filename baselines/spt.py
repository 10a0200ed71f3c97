"""SPT: He et al., "Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning", ICCV 2023, arXiv 2303.08566.

Before training, the gradients of a few batches show which weights are most sensitive. A matrix with many
of them gets a LoRA or an adapter; in the others only the sensitive weights are tuned.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from moppa.peft.inject import parametrize_weights, wrap_module
from moppa.peft.low_rank import check_rank
from moppa.peft.sensitivity import Batches, Piece, select_sensitive, sensitivities
from moppa.peft.targets import TARGETS, TargetLinear, target_linears
from moppa.utils import validate
from moppa.utils.errors import SettingError

from .lora import LoRADelta

STRUCTURES = ("lora", "adapter")


class SparseDelta(nn.Module):
    """W' = W + values at some positions of W, zero at the start."""

    def __init__(self, index: Int[Tensor, " positions"], like: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index, persistent=False)
        self.values = nn.Parameter(like.new_zeros(len(index)))

    def forward(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return weight.flatten().index_add(0, self.get_buffer("index"), self.values).view_as(weight)


class StackedAdapters(nn.Module):
    """y' = y + Up(GELU(Down(y))), y = W x, for each adapted one of the matrices stacked in W; Up = 0 at the start."""

    def __init__(self, inner: nn.Module, target: TargetLinear, *, rank: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.inner, self.is_adapted = inner, target.is_adapted
        width, num_adapted = target.matrix_shape[0], sum(target.is_adapted)
        self.down = nn.ParameterList(torch.empty(rank, width) for _ in range(num_adapted))
        self.down_bias = nn.ParameterList(torch.zeros(rank) for _ in range(num_adapted))
        self.up = nn.ParameterList(torch.zeros(width, rank) for _ in range(num_adapted))
        self.up_bias = nn.ParameterList(torch.zeros(width) for _ in range(num_adapted))
        for down in self.down:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)  # as in the authors' code

    def forward(self, x: Tensor) -> Tensor:
        adapters = zip(self.down, self.down_bias, self.up, self.up_bias, strict=True)
        outputs = self.inner(x).chunk(len(self.is_adapted), dim=-1)
        return torch.cat(
            [
                adapted(y, *next(adapters)) if is_adapted else y
                for y, is_adapted in zip(outputs, self.is_adapted, strict=True)
            ],
            dim=-1,
        )


def adapted(y: Tensor, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor) -> Tensor:
    """Returns y + Up(GELU(Down(y)))."""
    return y + F.linear(F.gelu(F.linear(y, down, down_bias)), up, up_bias)


@dataclass(kw_only=True)
class MatrixPiece(Piece):
    """A matrix of a linear layer, one of those that are stacked in the layer's weight."""

    target: TargetLinear


def attach(
    model: nn.Module,
    *,
    structure: str,
    rank: int,
    budget: int,
    matrix_ratio: float,
    vector_ratio: float,
    num_batches: int,
    head_seed: int,
    generator: torch.Generator | None,
    examples: Callable[[], Batches],
) -> None:
    """Tunes at most `budget` parameters, where the gradients of the first `num_batches` of `examples` are largest.

    A matrix gets a `structure` (lora or adapter) of rank `rank` if it has at least 1 / `matrix_ratio` as many sensitive
    weights as the structure has parameters. A vector is tuned as a whole if at least 1 / `vector_ratio` of it is
    sensitive (the authors' alpha and beta). The untrained head is drawn from `head_seed` for the estimate only, so that
    the selection does not depend on the cell's seed. The class token is tuned too, as in the authors' code.
    """
    validate.one_of("structure", structure, STRUCTURES)
    validate.integer("budget", budget, minimum=1)
    validate.number("matrix_ratio", matrix_ratio, minimum=0, exclusive_minimum=True)
    validate.number("vector_ratio", vector_ratio, minimum=0, exclusive_minimum=True)
    validate.integer("num_batches", num_batches, minimum=1)
    validate.integer("head_seed", head_seed, minimum=0)
    pieces = find_pieces(model, structure, rank, matrix_ratio, vector_ratio)
    scores = sensitivities(model, pieces, examples(), num_batches, head_seed=head_seed)
    class_token = getattr(model, "cls_token", None)
    num_token_values = 0 if class_token is None else class_token.numel()
    if budget <= num_token_values:
        raise SettingError("budget", f"={budget} is spent on the class token alone ({num_token_values}): raise it")
    sensitive = select_sensitive(scores, pieces, budget - num_token_values)
    if class_token is not None:
        class_token.requires_grad_(True)
    tensors: dict[tuple[int, str], list[tuple[Piece, Tensor]]] = {}
    for piece, index in zip(pieces, sensitive, strict=True):
        tensors.setdefault((id(piece.layer), piece.tensor), []).append((piece, index))
    for members in tensors.values():
        tune_tensor(members, structure, rank, generator)


def find_pieces(model: nn.Module, structure: str, rank: int, matrix_ratio: float, vector_ratio: float) -> list[Piece]:
    """Returns the matrices of all blocks, with q, k and v apart, their biases, and the vectors of all norms."""
    pieces: list[Piece] = []
    for target in target_linears(model, TARGETS, method="SPT"):
        d_out, d_in = target.matrix_shape
        check_rank(rank, target.matrix_shape)
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
                    target=target,
                )
            )
        pieces += vector_pieces(target.layer, "bias", vector_ratio, count=len(target.is_adapted))
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            pieces += vector_pieces(module, "weight", vector_ratio)
            pieces += vector_pieces(module, "bias", vector_ratio)
    return pieces


def vector_pieces(layer: nn.Module, tensor: str, vector_ratio: float, count: int = 1) -> list[Piece]:
    """Returns `count` equal pieces of a vector, or none if the layer has no such vector."""
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
        )
        for index in range(count)
    ]


def tune_tensor(
    members: Sequence[tuple[Piece, Tensor]], structure: str, rank: int, generator: torch.Generator | None
) -> None:
    """Attaches to one tensor what was selected for its pieces: a structure for whole matrices, else single weights."""
    piece = members[0][0]
    is_whole = tuple(len(index) >= member.whole_from for member, index in members)
    num_columns = piece.parameter[0].numel()
    positions = []
    for (member, index), whole in zip(members, is_whole, strict=True):
        if whole and not isinstance(member, MatrixPiece):
            index = torch.arange((member.stop - member.start) * num_columns, device=index.device)
        if not (whole and isinstance(member, MatrixPiece)) and len(index):
            positions.append(member.start * num_columns + index)
    if positions:
        parametrize_weights(piece.layer, **{piece.tensor: SparseDelta(torch.cat(positions), like=piece.parameter)})
    if isinstance(piece, MatrixPiece) and any(is_whole):
        target = replace(piece.target, is_adapted=is_whole)
        if structure == "lora":
            delta = LoRADelta(target, rank=rank, alpha=rank, generator=generator)
            parametrize_weights(piece.layer, weight=delta)
        else:
            wrap_module(
                target.owner, target.name, partial(StackedAdapters, target=target, rank=rank, generator=generator)
            )
