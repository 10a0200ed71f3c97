"""MAM: He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning", ICLR 2022, arXiv 2110.04366."""

from functools import partial

from torch import Generator, nn

from moppa.peft.blocks import find_plain_blocks
from moppa.peft.bottleneck import Adapter, ParallelAdapter
from moppa.peft.inject import wrap_module
from moppa.peft.prefixes import add_prefixes
from moppa.utils import validate


def attach(
    model: nn.Module, *, num_prefixes: int, bottleneck: int, scale: float, dropout: float, generator: Generator | None
) -> None:
    """Adds `num_prefixes` keys and values to the attention of every block, and an adapter s Up relu(Down z) to its MLP.

    The authors compute the prefixes by an MLP in training; here they are trained themselves. Prefixes are further keys,
    so that no initial value gives the logits of the frozen model.
    """
    validate.integer("num_prefixes", num_prefixes, minimum=1)
    for block in find_plain_blocks(model, purpose="MAM adds prefixes to", takes_more_tokens=True):
        adapter = Adapter(
            block.dim,
            bottleneck=bottleneck,
            activation="relu",
            scale=scale,
            init="kaiming_uniform",
            dropout=dropout,
            drop_path=0.0,
            generator=generator,
        )
        add_prefixes(block.unwrapped, num_prefixes, generator, method="MAM")
        wrap_module(block.unwrapped, "mlp", partial(ParallelAdapter, adapter=adapter))
