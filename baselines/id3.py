"""ID3: Agarwal et al., "Step-by-Step Unmasking for Parameter-Efficient Fine-tuning of Large Language Models", 2024.

arXiv 2408.14470; the authors' code: github.com/Aradhye2002/selective-peft-toolkit.
"""

from typing import Any

from torch import nn

from moppa.peft.blocks import find_blocks
from moppa.peft.inject import parametrize_weights
from moppa.peft.unmasking import UnmaskedDelta, Unmasking
from moppa.utils import validate


def attach(model: Any, *, budget: int, max_per_step: int, epsilon: float, exponent: float) -> None:
    """Tunes up to `budget` weights of all linear layers and convolutions but the head; their number grows in training.

    The importance of a weight is |g| / (|W| + `epsilon`)^`exponent`, with the gradient g of one batch: an exponent of 0
    unmasks the largest gradients, a higher one prefers small weights. One step unmasks at most `max_per_step`, which
    limits only a training of fewer than `budget` / `max_per_step` steps.
    """
    validate.integer("budget", budget, minimum=1)
    validate.integer("max_per_step", max_per_step, minimum=1)
    validate.number("epsilon", epsilon, minimum=0, exclusive_minimum=True)
    validate.number("exponent", exponent, minimum=0)
    find_blocks(model)  # names a model without blocks
    head = model.get_classifier()
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d) and layer is not head]
    sizes = [layer.weight.numel() for layer in layers]
    unmasking = Unmasking(sizes, budget=budget, max_per_step=max_per_step, epsilon=epsilon, exponent=exponent)
    for index, layer in enumerate(layers):
        parametrize_weights(layer, weight=UnmaskedDelta(unmasking, first=sum(sizes[:index])))
