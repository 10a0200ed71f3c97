"""RDP LoRA: LoRA in the blocks at the pivots of the hidden states' trajectory over depth.

Çelebi et al., "RDP LoRA: Geometry-Driven Identification for Parameter-Efficient Adaptation in Large Language Models",
2026, arXiv 2604.19321. Our reading of the abstract.
"""

from collections.abc import Callable, Sequence

from torch import Generator, nn

from moppa.peft import trajectory
from moppa.peft.blocks import find_plain_blocks
from moppa.peft.inject import parametrize_weights
from moppa.peft.sensitivity import Batches, divided
from moppa.peft.targets import target_linears
from moppa.utils import validate

from .lora import LoRADelta


def attach(
    model: nn.Module,
    *,
    fraction: float,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    num_images: int,
    batch_size: int,
    generator: Generator | None,
    examples: Callable[[], Batches],
) -> None:
    """Adds a LoRA to each target (q, k, v, proj, fc1, fc2) of the blocks whose outputs are pivots of the trajectory.

    These are a `fraction` of all blocks, rounded, and at least one. The trajectory is that of the first `num_images` of
    `examples`, read in batches of `batch_size`, through the frozen model: no seed has an influence on the choice.
    """
    validate.number("fraction", fraction, minimum=0, maximum=1, exclusive_minimum=True)
    validate.number("alpha", alpha, minimum=0, exclusive_minimum=True)
    validate.integer("num_images", num_images, minimum=1)
    validate.integer("batch_size", batch_size, minimum=1)
    blocks = find_plain_blocks(model, purpose="RDP LoRA follows the hidden states through")  # of one width
    linears = target_linears(model, targets, method="RDP LoRA")
    products = trajectory.trajectory_products(model, blocks, divided(examples(), num_images, batch_size))
    chosen = trajectory.pivots(products, max(1, round(fraction * len(blocks))))
    for target in linears:
        if target.depth + 1 in chosen:  # point l is the output of block l = 1, ..., L
            delta = LoRADelta(
                target,
                rank=rank,
                alpha=alpha,
                share_down=False,
                init="kaiming_uniform",
                dropout=0.0,
                generator=generator,
            )
            parametrize_weights(target.layer, weight=delta)
