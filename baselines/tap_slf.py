"""TAP-SLF: soft prompts in the input, and LoRA in the last blocks.

Wan and Lan, "TAP-SLF: Parameter-Efficient Adaptation of Vision Foundation Models for Multi-Task Ultrasound Image
Analysis", 2026, arXiv 2603.00433; the authors' code: github.com/huiwanHW/Florence-2-adaptation.
"""

from collections.abc import Sequence

from torch import Generator, nn

from moppa.peft.blocks import find_blocks
from moppa.peft.inject import parametrize_weights
from moppa.peft.prompts import attach_prompts
from moppa.peft.targets import target_linears
from moppa.utils import validate

from .lora import LoRADelta


def attach(
    model: nn.Module,
    *,
    num_prompts: int,
    pool_prompts: bool,
    top_fraction: float,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    dropout: float,
    generator: Generator | None,
) -> None:
    """Adds `num_prompts` prompts to the tokens of the image, and a LoRA to each target of the last blocks.

    These are `top_fraction` of all blocks, rounded down, and at least one. q, k and v of one layer share their A, as in
    the authors' code. `dropout` acts on what A reads. The prompts are those of VPT-Shallow: they pass through all
    blocks, and `pool_prompts` says whether a head that reads an average averages them too.
    """
    validate.number("top_fraction", top_fraction, minimum=0, maximum=1, exclusive_minimum=True)
    validate.number("alpha", alpha, minimum=0, exclusive_minimum=True)
    validate.number("dropout", dropout, minimum=0, maximum=0.9)
    num_blocks = len(find_blocks(model))
    first = num_blocks - max(1, int(top_fraction * num_blocks))
    linears = [target for target in target_linears(model, targets, method="TAP-SLF") if target.depth >= first]
    deltas = [
        LoRADelta(
            target,
            rank=rank,
            alpha=alpha,
            share_down=True,
            init="kaiming_uniform",
            dropout=dropout,
            generator=generator,
        )
        for target in linears
    ]
    attach_prompts(
        model,
        num_prompts=num_prompts,
        deep=False,
        dropout=0.0,
        pool_prompts=pool_prompts,
        transform=nn.Identity(),
        generator=generator,
        method="TAP-SLF",
    )
    for target, delta in zip(linears, deltas, strict=True):
        parametrize_weights(target.layer, weight=delta)
