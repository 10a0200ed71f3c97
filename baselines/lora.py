"""LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moppa.peft.blocks import by_depth, find_blocks
from moppa.peft.initialize import INITS, initialize
from moppa.peft.inject import parametrize_weights
from moppa.peft.low_rank import LowRankDelta, check_rank
from moppa.peft.targets import TargetLinear, target_linears
from moppa.utils import validate
from moppa.utils.errors import SettingError


class LoRADelta(LowRankDelta):
    """W' = W + (alpha / r) B A, with A (r, d_in), B (d_out, r), and B = 0 at the start for most `init`.

    If W is several matrices stacked by rows, as timm's qkv, each adapted one has its own B and, unless `share_down`,
    its own A.
    """

    def __init__(
        self,
        target: TargetLinear,
        *,
        rank: int,
        alpha: float,
        share_down: bool,
        init: str,
        dropout: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        d_out, d_in = target.matrix_shape
        check_rank(rank, target.matrix_shape)
        self.is_adapted, self.scale, self.dropout = target.is_adapted, alpha / rank, dropout
        num_adapted = sum(self.is_adapted)
        self.down = nn.ParameterList(torch.empty(rank, d_in) for _ in range(1 if share_down else num_adapted))
        self.up = nn.ParameterList(torch.zeros(d_out, rank) for _ in range(num_adapted))
        initialize(self.down, self.up, init, generator)

    def factors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns A and (alpha / r) B of each adapted matrix."""
        return list(self.down) * (len(self.up) // len(self.down)), [self.scale * up for up in self.up]


def attach(
    model: nn.Module,
    *,
    rank: int | Sequence[int],
    alpha: float | Sequence[float],
    targets: Sequence[str],
    share_down: bool,
    init: str,
    dropout: float,
    generator: torch.Generator | None,
) -> None:
    """Adds to each target (q, k, v, proj, fc1, fc2) of every block an update of rank `rank`, scaled by alpha / rank.

    A list of ranks or alphas divides the depth equally among its values, in order. With fewer blocks than values some
    go unused. `share_down` gives q, k and v one A, as in NOAH's code.
    """
    validate.boolean("share_down", share_down)
    validate.one_of("init", init, INITS)
    validate.number("dropout", dropout, minimum=0, maximum=0.9)
    num_blocks = len(find_blocks(model))
    ranks, alphas = by_depth("rank", rank, num_blocks), by_depth("alpha", alpha, num_blocks)
    for value in alphas:
        validate.number("alpha", value, minimum=0, exclusive_minimum=True)
    for target in target_linears(model, targets, method="LoRA"):
        if share_down and target.name in ("q_proj", "k_proj", "v_proj"):
            raise SettingError("share_down", "=true: this model has q, k and v in layers of their own; set it to false")
        delta = LoRADelta(
            target,
            rank=ranks[target.depth],
            alpha=alphas[target.depth],
            share_down=share_down,
            init=init,
            dropout=dropout,
            generator=generator,
        )
        parametrize_weights(target.layer, weight=delta)
