"""LST: Sung et al., "LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning".

NeurIPS 2022, arXiv 2206.06522; the authors' code: github.com/ylsung/Ladder-Side-Tuning.
"""

from functools import partial

from timm.models.vision_transformer import Block
from torch import Generator, nn

from moppa.peft.blocks import find_plain_blocks
from moppa.peft.initialize import draw_module
from moppa.peft.inject import unwrapped, wrap_module
from moppa.peft.side_network import End, Rung, Start
from moppa.utils import validate
from moppa.utils.errors import SettingError


def attach(model: nn.Module, *, reduction: int, temperature: float, generator: Generator | None) -> None:
    """Adds a side network whose blocks are `reduction` times narrower and read the output of every block."""
    blocks = find_plain_blocks(model, purpose="LST adds a side network to")
    attention = unwrapped(blocks[0].unwrapped.attn)
    dim, num_heads = blocks[0].dim, attention.num_heads
    if (dim // num_heads) % validate.integer("reduction", reduction, minimum=1):
        raise SettingError("reduction", f"={reduction} does not divide the {dim // num_heads} channels of a head")
    validate.number("temperature", temperature, minimum=0, exclusive_minimum=True)
    width, draw = dim // reduction, partial(draw_module, generator=generator)
    for block in blocks:
        down, side = draw(nn.Linear, dim, width), draw(Block, width, num_heads, qkv_bias=True)
        wrap_module(block.owner, block.name, partial(Rung, down=down, side=side, temperature=temperature))
    wrap_module(blocks[0].owner, blocks[0].name, partial(Start, down=draw(nn.Linear, dim, width)))
    norm, up = draw(nn.LayerNorm, width, eps=1e-6), draw(nn.Linear, width, dim)
    nn.init.zeros_(up.weight)
    wrap_module(model, "norm", partial(End, dim=dim, norm=norm, up=up))
