"""LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa import check
from moppa.errors import UserError
from moppa.places import places_of
from moppa.touch import reweight

PARTS_OF_QKV = ("q", "k", "v")
LINEARS = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


class LowRankDelta(nn.Module):
    """W' = W + (alpha / r) B A, section 4.1, with A: (r, d_in), B: (d_out, r) and B = 0 at the start.

    W may be several matrices stacked by rows, as timm's fused qkv is: each adapted one has its own A and B, the
    others pass unchanged.
    """

    def __init__(
        self, shape: torch.Size, parts: Sequence[bool], *, rank: int, alpha: float, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        num_rows, num_columns = shape[0] // len(parts), shape[1]
        check.whole("method.attach.rank", rank, least=1)
        if rank > min(num_rows, num_columns):
            raise UserError(
                f"method.attach.rank={rank} is above the {min(num_rows, num_columns)} that a {num_rows} x "
                f"{num_columns} weight can have; choose a smaller rank"
            )
        self.parts = tuple(parts)
        self.scale = alpha / rank
        num_adapted = sum(self.parts)
        self.down = nn.ParameterList(torch.empty(rank, num_columns) for _ in range(num_adapted))
        # zero, so that the first step starts from the frozen model
        self.up = nn.ParameterList(torch.zeros(num_rows, rank) for _ in range(num_adapted))
        for down in self.down:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)  # as in the authors' code

    def forward(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        factors = zip(self.up, self.down, strict=True)
        rows = weight.chunk(len(self.parts))
        return torch.cat(
            [
                torch.addmm(row, *next(factors), alpha=self.scale) if is_adapted else row
                for row, is_adapted in zip(rows, self.parts, strict=True)
            ]
        )


def attach(
    model: nn.Module, *, rank: int, alpha: float, targets: Sequence[str], generator: torch.Generator | None
) -> None:
    """Gives each target (q, k, v, proj, fc1, fc2) of every block an update of rank `rank`, scaled by alpha / rank."""
    check.number("method.attach.alpha", alpha, low=0, above=True)
    for target in targets:
        check.one_of("method.attach.targets", target, (*PARTS_OF_QKV, *LINEARS))
    if not targets or len(set(targets)) < len(targets):
        raise UserError(
            f"method.attach.targets={list(targets)}: name at least one of q, k, v, proj, fc1, fc2, each once"
        )
    for block in [place.block for place in places_of(model)]:
        adapted = {"attn.qkv": [part in targets for part in PARTS_OF_QKV]}
        adapted |= {path: [True] for target, path in LINEARS.items() if target in targets}
        for path, parts in adapted.items():
            if any(parts):
                linear = linear_at(block, path, of=model)
                delta = LowRankDelta(linear.weight.shape, parts, rank=rank, alpha=alpha, generator=generator)
                reweight(linear, delta)


def linear_at(block: nn.Module, path: str, *, of: nn.Module) -> nn.Linear:
    """The linear layer of a transformer block at a dotted path."""
    owner, _, name = path.rpartition(".")
    linear = getattr(getattr(block, owner, None), name, None)
    if not isinstance(linear, nn.Linear):
        raise UserError(
            f"LoRA adapts the linear layers of transformer blocks; those of {type(of).__name__} have no {path}"
        )
    return linear
