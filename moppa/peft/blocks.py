"""The blocks of a timm model and the grid of their tokens, as the model itself states them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from moppa.peft.inject import unwrapped
from moppa.utils.errors import SettingError, UserError

Layout = Literal["tokens", "channels_last", "channels_first"]


@dataclass(frozen=True, kw_only=True)
class BlockInfo:
    """One block: its owner and its name there, and the shape of the tokens that enter it.

    `layout` is (B, N, C) with `num_prefix_tokens` before the grid's, (B, H, W, C), or (B, C, H, W).
    """

    owner: nn.Module
    name: str
    dim: int
    grid: tuple[int, int]
    num_prefix_tokens: int
    layout: Layout

    @property
    def module(self) -> nn.Module:
        """What the owner has now: the block with the wrappers that methods have put around it."""
        return self.owner.get_submodule(self.name)

    @property
    def unwrapped(self) -> Any:
        """The block inside of these wrappers, which has attention and an MLP."""
        return unwrapped(self.module)


def find_blocks(model: nn.Module) -> list[BlockInfo]:
    """Returns the blocks of a timm vision transformer, Swin or ConvNeXt in depth order; inside `only_layers` those.

    Raises:
        UserError: if the model has no such blocks, or does not state their grid.
    """
    for find in (vit_blocks, swin_blocks, convnext_blocks):
        if blocks := list(find(model)):
            layers = vars(model).get("selected_layers")
            return blocks if layers is None else [blocks[layer] for layer in layers]
    raise UserError(
        f"{type(model).__name__} has no blocks that methods can attach to; "
        f"choose a vision transformer, a Swin or a ConvNeXt of timm as the backbone"
    )


@contextmanager
def only_layers(model: Any, layers: Sequence[int] | None) -> Iterator[None]:
    """Makes `find_blocks` return only the blocks at these depths inside the context; all of them for None."""
    model.selected_layers = layers
    try:
        yield
    finally:
        del model.selected_layers


def find_transformer_blocks(model: nn.Module, *, method: str) -> list[BlockInfo]:
    """Returns the blocks of a vision transformer or a Swin, which all have attention and an MLP.

    Raises:
        UserError: if the model is neither; the message names the method.
    """
    blocks = find_blocks(model)
    if not all(hasattr(block.unwrapped, "attn") and hasattr(block.unwrapped, "mlp") for block in blocks):
        raise UserError(
            f"{method} attaches to transformer blocks, and {type(model).__name__} has none: "
            f"choose a ViT or a Swin as the backbone"
        )
    return blocks


def find_plain_blocks(model: nn.Module, *, purpose: str, takes_more_tokens: bool = False) -> list[BlockInfo]:
    """Returns the blocks of a plain vision transformer, in which every block sees all tokens.

    With `takes_more_tokens`, their attention must take more tokens than the image has: relative and rotary positions
    know no others.

    Raises:
        UserError: if the model is none; the message starts with the purpose, as in "VPT adds prompts to".
    """
    blocks = find_blocks(model)
    attention = unwrapped(getattr(blocks[0].unwrapped, "attn", None))
    is_relative = any(getattr(attention, name, None) is not None for name in ("relative_position_index", "rel_pos"))
    is_fixed = is_relative or getattr(model, "rope", None) is not None
    if blocks[0].layout != "tokens" or (takes_more_tokens and is_fixed):
        raise UserError(
            f"{purpose} the blocks of a plain vision transformer, which {type(model).__name__} is not; "
            f"choose another backbone or another method"
        )
    return blocks


def by_depth(name: str, value: Any, num_blocks: int) -> list[Any]:
    """Returns the value of each block: of a list, the one whose share of the depth contains the block's middle."""
    values = list(value) if isinstance(value, Sequence) else [value]
    if not values:
        raise SettingError(name, "=[]: give one value, or several that divide the depth")
    return [values[(2 * depth + 1) * len(values) // (2 * num_blocks)] for depth in range(num_blocks)]


def vit_blocks(model: Any) -> Iterator[BlockInfo]:
    """Yields the blocks of a plain vision transformer: one width, one grid, prefix tokens first."""
    blocks, patch_embed = getattr(model, "blocks", None), getattr(model, "patch_embed", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not hasattr(model, "num_prefix_tokens"):
        return
    grid: Any = getattr(patch_embed, "grid_size", None)
    if grid is None:
        raise UserError(
            f"{type(model).__name__} states no grid (patch_embed.grid_size): create it with a fixed img_size"
        )
    for name, _ in blocks.named_children():
        yield BlockInfo(
            owner=blocks,
            name=name,
            dim=int(model.embed_dim),
            grid=tuple(grid),
            num_prefix_tokens=int(model.num_prefix_tokens),
            layout="tokens",
        )


def swin_blocks(model: nn.Module) -> Iterator[BlockInfo]:
    """Yields the blocks of a Swin. Width and grid change by stage, and every block states its own."""
    stages: Any = getattr(model, "layers", None) or ()
    for stage in stages:
        for name, child in getattr(stage, "blocks", nn.Module()).named_children():
            block = unwrapped(child)
            if hasattr(block, "input_resolution"):
                yield BlockInfo(
                    owner=stage.blocks,
                    name=name,
                    dim=int(block.dim),
                    grid=tuple(block.input_resolution),
                    num_prefix_tokens=0,
                    layout="channels_last",
                )


def convnext_blocks(model: Any) -> Iterator[BlockInfo]:
    """Yields the blocks of a ConvNeXt. Their grid is the configured image size divided by the stage's stride."""
    stages: Any = getattr(model, "stages", None) or ()
    for stage, info in zip(stages, getattr(model, "feature_info", ()), strict=False):
        for name, block in getattr(stage, "blocks", nn.Module()).named_children():
            if hasattr(unwrapped(block), "conv_dw"):
                height, width = model.pretrained_cfg["input_size"][1:]
                yield BlockInfo(
                    owner=stage.blocks,
                    name=name,
                    dim=int(info["num_chs"]),
                    grid=(height // info["reduction"], width // info["reduction"]),
                    num_prefix_tokens=0,
                    layout="channels_first",
                )


def to_tokens(x: Tensor, layout: Layout) -> Tensor:
    """Returns activations of any layout as (B, N, C)."""
    if layout == "tokens":
        return x
    return x.flatten(1, 2) if layout == "channels_last" else x.flatten(2).transpose(1, 2)


def from_tokens(tokens: Tensor, layout: Layout, like: Tensor) -> Tensor:
    """Returns (B, N, C) tokens in the layout and shape of `like`."""
    return tokens.transpose(1, 2).reshape(like.shape) if layout == "channels_first" else tokens.reshape(like.shape)
