"""Polyhistor-Lite: adapters whose matrices a decomposed hypernetwork generates from embeddings of the layers.

Liu et al., "Polyhistor: Parameter-Efficient Multi-Task Adaptation for Dense Vision Tasks", NeurIPS 2022,
arXiv 2210.03265. Our reading of the abstract, for one task.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from moppa.peft.blocks import find_transformer_blocks
from moppa.peft.bottleneck import SequentialAdapter
from moppa.peft.inject import wrap_module
from moppa.utils import validate
from moppa.utils.errors import UserError


class HyperNetwork(nn.Module):
    """Template Q(e) P(e)^T (n, w) of an embedding e (k), with P (w, r) and Q (n, r) linear in e.

    These maps have k r (w + n) weights, where one to the template had k w n. They are drawn so that a template is as
    large as a linear layer's initial weight; `is_zero` leaves P at zero.
    """

    def __init__(
        self, width: int, bottleneck: int, rank: int, embedding: int, *, is_zero: bool, generator: Generator | None
    ):
        super().__init__()
        self.to_p = nn.Parameter(torch.zeros(width, rank, embedding))
        self.to_q = nn.Parameter(torch.zeros(bottleneck, rank, embedding))
        for matrix in [self.to_q] if is_zero else [self.to_p, self.to_q]:
            nn.init.normal_(matrix, std=(3 * width * rank * embedding**2) ** -0.25, generator=generator)

    def forward(self, embedding: Float[Tensor, " embedding"]) -> Float[Tensor, "bottleneck width"]:
        return (self.to_q @ embedding) @ (self.to_p @ embedding).T


class GeneratedAdapter(nn.Module):
    """A(x) = Up GELU(Down x), with Down (n, d) and Up (d, n) Kronecker products of d / w scales and a template."""

    def __init__(self, down: HyperNetwork, up: HyperNetwork, *, num_scales: int, generator: Generator | None) -> None:
        super().__init__()
        self.down, self.up = down, up
        self.embedding = nn.Parameter(torch.randn(down.to_p.shape[2], generator=generator))
        self.down_scale, self.up_scale = (nn.Parameter(torch.ones(num_scales)) for _ in range(2))

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        down = torch.kron(self.down_scale[None], self.down(self.embedding))
        up = torch.kron(self.up_scale[None], self.up(self.embedding))
        return F.linear(F.gelu(F.linear(x, down)), up.T)


def attach(model: nn.Module, *, bottleneck: int, rank: int, embedding: int, generator: Generator | None) -> None:
    """Adds an adapter after attention and after the MLP of every block, with an embedding of its own.

    All adapters share the hypernetworks of Down and of Up, of rank `rank`, whose templates have the smallest width of
    the model. A block of m times that width has m scales for each matrix. Up is zero at the start.

    Raises:
        UserError: if a width is no multiple of the smallest.
    """
    validate.integer("bottleneck", bottleneck, minimum=1)
    validate.integer("rank", rank, minimum=1)
    validate.integer("embedding", embedding, minimum=1)
    blocks = find_transformer_blocks(model, method="Polyhistor")
    width = min(block.dim for block in blocks)
    if any(block.dim % width for block in blocks):
        raise UserError(
            f"Polyhistor repeats adapters of width {width}, and {type(model).__name__} has a width that is no multiple "
            f"of it: choose another backbone"
        )
    down, up = (
        HyperNetwork(width, bottleneck, rank, embedding, is_zero=is_zero, generator=generator)
        for is_zero in (False, True)
    )
    for block in blocks:
        for name in ("attn", "mlp"):
            adapter = GeneratedAdapter(down, up, num_scales=block.dim // width, generator=generator)
            wrap_module(block.unwrapped, name, lambda inner, adapter=adapter: SequentialAdapter(inner, adapter))
