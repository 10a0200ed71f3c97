"""Prefix-Tuning: Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021.

arXiv 2101.00190.
"""

from torch import Generator, nn

from moppa.peft.blocks import find_plain_blocks
from moppa.peft.prefixes import add_prefixes
from moppa.utils import validate


def attach(model: nn.Module, *, num_prefixes: int, generator: Generator | None) -> None:
    """Adds `num_prefixes` learned keys and values to the attention of every block.

    The authors compute them by an MLP in training; here they are trained themselves, as in MAM. No initial value gives
    the logits of the frozen model.
    """
    validate.integer("num_prefixes", num_prefixes, minimum=1)
    for block in find_plain_blocks(model, purpose="Prefix-Tuning adds prefixes to", takes_more_tokens=True):
        add_prefixes(block.unwrapped, num_prefixes, generator, method="Prefix-Tuning")
