"""SPT: He et al., "Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning", ICCV 2023, arXiv 2303.08566.

Before training, the gradients of a few batches say which single weights matter most (section 3.1); matrices with many
of them get a LoRA or an adapter, and of the others those weights alone are tuned (section 3.2).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from moppa.peft.inject import parametrize_weights, wrap_module
from moppa.peft.low_rank import PATHS, QKV, LowRankDelta, TargetLinear, checked_rank, target_linears
from moppa.utils import validate
from moppa.utils.errors import UserError

STRUCTURES = ("lora", "adapter")
Batches = Iterable[tuple[Tensor, Tensor]]


class SparseDelta(nn.Module):
    """W' = W + values at some positions of W, which start at zero."""

    def __init__(self, index: Int[Tensor, " positions"], like: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index, persistent=False)
        self.values = nn.Parameter(like.new_zeros(len(index)))

    def forward(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return weight.flatten().index_add(0, self.index, self.values).view_as(weight)


class PartsLowRank(LowRankDelta):
    """W' = W + B A for each part that is tuned as a whole, B = 0 at the start."""

    def __init__(self, adapted: TargetLinear, parts: list[bool], rank: int, generator: torch.Generator | None) -> None:
        super().__init__()
        d_out, d_in = adapted.part_shape
        new = adapted.layer.weight.new_zeros
        self.parts = tuple(parts)
        self.down = nn.ParameterList(drawn(new(rank, d_in), generator) for _ in range(sum(parts)))
        self.up = nn.ParameterList(new(d_out, rank) for _ in range(sum(parts)))

    def factors(self) -> tuple[nn.ParameterList, nn.ParameterList]:
        """A and B of each tuned part."""
        return self.down, self.up


class PartsAdapter(nn.Module):
    """y' = y + Up(GELU(Down(y))), y = W x, for each part that is tuned as a whole, Up = 0 at the start."""

    def __init__(
        self, linear: nn.Module, adapted: TargetLinear, parts: list[bool], rank: int, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        width, new = adapted.part_shape[0], adapted.layer.weight.new_zeros
        self.linear, self.parts = linear, tuple(parts)
        self.down = nn.ParameterList(drawn(new(rank, width), generator) for _ in range(sum(parts)))
        self.down_bias = nn.ParameterList(new(rank) for _ in range(sum(parts)))
        self.up = nn.ParameterList(new(width, rank) for _ in range(sum(parts)))
        self.up_bias = nn.ParameterList(new(width) for _ in range(sum(parts)))

    def forward(self, x: Tensor) -> Tensor:
        factors = zip(self.down, self.down_bias, self.up, self.up_bias, strict=True)
        found = []
        for y, is_adapted in zip(self.linear(x).chunk(len(self.parts), dim=-1), self.parts, strict=True):
            if is_adapted:
                down, down_bias, up, up_bias = next(factors)
                found.append(y + F.linear(F.gelu(F.linear(y, down, down_bias)), up, up_bias))
            else:
                found.append(y)
        return torch.cat(found, dim=-1)


@dataclass(kw_only=True)
class Piece:
    """One matrix or vector: rows `start` to `stop` of a tensor, what tuning it whole costs, and when that is done."""

    layer: nn.Module
    tensor: str
    start: int
    stop: int
    whole_cost: int
    whole_from: float
    adapted: TargetLinear | None

    @property
    def parameter(self) -> nn.Parameter:
        """The pretrained tensor that holds it."""
        return getattr(self.layer, self.tensor)


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

    A matrix is tuned by a `structure` (lora or adapter) of rank `rank` where it holds at least 1 / `matrix_ratio` as
    many sensitive weights as that has parameters, a vector whole where at least 1 / `vector_ratio` of it is sensitive
    (the authors' alpha and beta). The head, still untrained, is drawn from `head_seed` for the estimate alone: where
    to tune then does not depend on the seed of the cell. The class token is tuned too, as in the authors' code.
    """
    validate.one_of("method.attach.structure", structure, STRUCTURES)
    validate.integer("method.attach.budget", budget, minimum=1)
    validate.number("method.attach.matrix_ratio", matrix_ratio, minimum=0, exclusive_minimum=True)
    validate.number("method.attach.vector_ratio", vector_ratio, minimum=0, exclusive_minimum=True)
    validate.integer("method.attach.num_batches", num_batches, minimum=1)
    validate.integer("method.attach.head_seed", head_seed, minimum=0)
    pieces = pieces_of(model, structure, rank, matrix_ratio, vector_ratio)
    scores = sensitivities(model, pieces, examples(), num_batches, head_seed)
    token = getattr(model, "cls_token", None)
    left = budget - (0 if token is None else token.numel())
    if left < 1:
        raise UserError(f"method.attach.budget={budget} is spent on the class token alone ({token.numel()}): raise it")
    picked = chosen(scores, pieces, left)
    if token is not None:
        token.requires_grad_(True)
    tune(pieces, picked, structure, rank, generator)


def pieces_of(model: nn.Module, structure: str, rank: int, matrix_ratio: float, vector_ratio: float) -> list[Piece]:
    """The matrices of all blocks, q, k and v apart, and the vectors beside them: norms and biases."""
    pieces = []

    def add_vector(layer: nn.Module, tensor: str, num_parts: int = 1) -> None:
        if getattr(layer, tensor, None) is not None:
            size = len(getattr(layer, tensor)) // num_parts
            for part in range(num_parts):
                rows = {"start": part * size, "stop": (part + 1) * size}
                cost = {"whole_cost": size, "whole_from": size / vector_ratio}
                pieces.append(Piece(layer=layer, tensor=tensor, adapted=None, **rows, **cost))

    for adapted in target_linears(model, (*QKV, *PATHS), method="SPT"):
        d_out, d_in = adapted.part_shape
        checked_rank(rank, adapted.part_shape)
        cost = rank * (d_in + d_out) if structure == "lora" else 2 * rank * d_out + rank + d_out
        for part in range(len(adapted.parts)):
            rows = {"start": part * d_out, "stop": (part + 1) * d_out}
            pieces.append(
                Piece(
                    layer=adapted.layer,
                    tensor="weight",
                    adapted=adapted,
                    whole_cost=cost,
                    whole_from=cost / matrix_ratio,
                    **rows,
                )
            )
        add_vector(adapted.layer, "bias", len(adapted.parts))
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            add_vector(module, "weight")
            add_vector(module, "bias")
    return pieces


def sensitivities(
    model: nn.Module, pieces: list[Piece], batches: Batches, num_batches: int, head_seed: int
) -> list[Tensor]:
    """Per piece, the sum over batches of each weight's squared gradient: equation 4, the loss that one step gains."""
    head = model.get_classifier()
    kept = [(tensor, tensor.detach().clone()) for tensor in head.parameters()]
    tuned = list({id(piece.parameter): piece.parameter for piece in pieces}.values())
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(head_seed)).mul_(0.02))
    for parameter in tuned:
        parameter.requires_grad_(True)
    totals = {id(parameter): torch.zeros_like(parameter) for parameter in tuned}
    seen, was_training = 0, model.training
    model.eval()  # no drop path: the estimate draws nothing
    for images, labels in batches:
        for parameter, gradient in zip(
            tuned, torch.autograd.grad(F.cross_entropy(model(images), labels), tuned), strict=True
        ):
            totals[id(parameter)] += gradient**2
        if (seen := seen + 1) == num_batches:
            break
    model.train(was_training)
    with torch.no_grad():
        for tensor, value in kept:
            tensor.copy_(value)
    for parameter in tuned:
        parameter.requires_grad_(False)
    return [totals[id(piece.parameter)][piece.start : piece.stop].flatten() for piece in pieces]


def chosen(scores: list[Tensor], pieces: list[Piece], budget: int) -> list[Tensor]:
    """Per piece, which of its weights are sensitive: the most sensitive of all, as many as the budget can pay.

    How many that is has no closed form, since a piece tuned whole costs what its structure costs: eighty numbers are
    tried, up to four times the budget.
    """
    everything = torch.cat(scores)
    sizes = torch.tensor([len(score) for score in scores], device=everything.device)
    ends = sizes.cumsum(0)
    order = everything.topk(min(4 * budget, len(everything))).indices
    piece_of = torch.bucketize(order, ends, right=True)
    whole_cost = torch.tensor([piece.whole_cost for piece in pieces], device=everything.device)
    whole_from = torch.tensor([piece.whole_from for piece in pieces], device=everything.device)
    best = 1  # the cheapest that can be: one weight
    for step in range(1, 81):
        count = math.ceil(len(order) * step / 80)
        counts = torch.bincount(piece_of[:count], minlength=len(pieces))
        if int(torch.where(counts >= whole_from, whole_cost, counts).sum()) <= budget:
            best = count
    starts = ends - sizes
    return [order[:best][piece_of[:best] == i] - starts[i] for i in range(len(pieces))]


def tune(
    pieces: list[Piece], picked: list[Tensor], structure: str, rank: int, generator: torch.Generator | None
) -> None:
    """Attaches what was chosen: structures where a matrix is tuned whole, single weights elsewhere."""
    tensors: dict[tuple[int, str], list[tuple[Piece, Tensor]]] = {}
    for piece, index in zip(pieces, picked, strict=True):
        tensors.setdefault((id(piece.layer), piece.tensor), []).append((piece, index))
    for members in tensors.values():
        first = members[0][0]
        is_whole = [len(index) >= piece.whole_from for piece, index in members]
        columns = first.parameter[0].numel()
        single = [
            piece.start * columns
            + (torch.arange((piece.stop - piece.start) * columns, device=index.device) if whole else index)
            for (piece, index), whole in zip(members, is_whole, strict=True)
            if not (whole and piece.adapted)
        ]
        if positions := [index for index in single if len(index)]:
            parametrize_weights(first.layer, **{first.tensor: SparseDelta(torch.cat(positions), like=first.parameter)})
        if first.adapted and any(is_whole):
            adapted = first.adapted
            if structure == "lora":
                parametrize_weights(first.layer, weight=PartsLowRank(adapted, is_whole, rank, generator))
            else:
                wrap_module(
                    adapted.owner,
                    adapted.name,
                    lambda linear, a=adapted, w=is_whole: PartsAdapter(linear, a, w, rank, generator),
                )


def drawn(factor: Tensor, generator: torch.Generator | None) -> Tensor:
    """A factor drawn as the authors draw it."""
    return nn.init.kaiming_uniform_(factor, a=math.sqrt(5), generator=generator)
