"""The bottleneck that adapters share, and the wrappers that place it beside or after a module."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.drop import DropPath
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor, nn

from moppa.peft.initialize import INITS, initialize
from moppa.peft.inject import wrap_module, wrappers_of
from moppa.utils import validate
from moppa.utils.errors import SettingError, UserError

READS = ("before_norm", "after_norm")
POST_NORM_BLOCKS = (ResPostBlock, SwinTransformerV2Block)
Tokens = Float[Tensor, "*batch dim"]


def quick_gelu(x: Tensor) -> Tensor:
    """Returns x sigmoid(1.702 x), CLIP's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "quick_gelu": quick_gelu}


class Adapter(nn.Module):
    """A(x) = s (Up act(Down x + b) + b'), token by token; the biases start at zero, and for most `init` Up too.

    s is a number or, with `channel`, one learned gain per channel. Dropout acts on the bottleneck, drop path on A(x).

    Raises:
        SettingError: if a setting has a value that it cannot have.
    """

    def __init__(
        self,
        dim: int,
        *,
        bottleneck: int,
        activation: str,
        scale: float | str,
        init: str,
        dropout: float,
        drop_path: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        validate.integer("bottleneck", bottleneck, minimum=1)
        validate.one_of("activation", activation, ACTIVATIONS)
        validate.one_of("init", init, INITS)
        validate.number("dropout", dropout, minimum=0, maximum=0.9)
        validate.number("drop_path", drop_path, minimum=0, maximum=0.9)
        if not isinstance(scale, str):
            validate.number("scale", scale, minimum=0, exclusive_minimum=True)
        elif scale != "channel":
            raise SettingError("scale", f"={scale!r}: it must be a number above 0, or channel")
        self.activation, self.dropout, self.drop_path = ACTIVATIONS[activation], dropout, DropPath(drop_path)
        self.scale = nn.Parameter(torch.ones(dim)) if scale == "channel" else scale
        self.noise = nn.Identity()  # of A(x) in training, if the trainer sets one
        self.down, self.down_bias = nn.Parameter(torch.empty(bottleneck, dim)), nn.Parameter(torch.zeros(bottleneck))
        self.up, self.up_bias = nn.Parameter(torch.zeros(dim, bottleneck)), nn.Parameter(torch.zeros(dim))
        initialize([self.down], [self.up], init, generator)

    def forward(self, x: Tokens) -> Tokens:
        hidden = self.activation(F.linear(x, self.down, self.down_bias))
        hidden = F.dropout(hidden, self.dropout, self.training)
        y = F.linear(hidden, self.up, self.up_bias)
        return self.noise(self.drop_path((self.scale * y).to(y.dtype)))


class ParallelAdapter(nn.Module):
    """y = f(x) + A(x), with f attention or the MLP."""

    def __init__(self, inner: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.inner, self.adapter = inner, adapter

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.inner(x, **kwargs) + self.adapter(x)


class SequentialAdapter(nn.Module):
    """y = f(x) + A(f(x)), with f attention, the MLP or the block."""

    def __init__(self, inner: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.inner, self.adapter = inner, adapter

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        y = self.inner(x, **kwargs)
        return y + self.adapter(y)


class NormedInput(nn.Module):
    """f(norm(x)), with f the MLP and the norm that was before it."""

    changes_input = True

    def __init__(self, inner: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.inner, self.norm = inner, norm

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.inner(self.norm(x), **kwargs)


def add_beside_mlp(block: Any, adapter: nn.Module, *, reads: str) -> None:
    """Adds an adapter beside the MLP of a block; it reads the tokens before or after the block's second norm.

    To read them before, the norm moves into the MLP, and nothing takes its place in the block. There it stays for other
    methods, too.

    Raises:
        SettingError: if `reads` is neither `before_norm` nor `after_norm`.
        UserError: if the block applies its norm after the MLP.
    """
    reads_before = validate.one_of("reads", reads, READS) == "before_norm"
    if reads_before and not any(isinstance(wrapper, NormedInput) for wrapper in wrappers_of(block.mlp)):
        if isinstance(block, POST_NORM_BLOCKS):
            raise UserError(f"reads=before_norm: {type(block).__name__} has no norm before its MLP; use after_norm")
        wrap_module(block, "mlp", partial(NormedInput, norm=block.norm2), outermost=True)
        wrap_module(block, "norm2", lambda _: nn.Identity())
    wrap_module(block, "mlp", partial(ParallelAdapter, adapter=adapter), outermost=reads_before)
