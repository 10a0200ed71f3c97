"""Where a timm model's blocks are and what grid their tokens lie on, asked of the model and never guessed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from moppa.utils.errors import UserError

Layout = Literal["tokens", "channels_last", "channels_first"]


@dataclass(frozen=True, kw_only=True)
class BlockInfo:
    """One block: the module that owns it and its name there, and the tokens that enter it.

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
        """The block that stands there now."""
        return self.owner.get_submodule(self.name)


def find_blocks(model: nn.Module) -> list[BlockInfo]:
    """Every block of a vision transformer, a Swin or a ConvNeXt of timm, in depth order.

    Raises:
        UserError: where the model has no such blocks, or does not say on what grid they work.
    """
    for find in (vit_blocks, swin_blocks, convnext_blocks):
        if found := list(find(model)):
            return found
    raise UserError(
        f"{type(model).__name__} has no blocks to attach to that we know; "
        f"choose a vision transformer, a Swin or a ConvNeXt of timm as the backbone"
    )


def find_transformer_blocks(model: nn.Module, *, method: str) -> list[BlockInfo]:
    """Every block, where all have attention and an MLP: a vision transformer's or a Swin's."""
    places = find_blocks(model)
    if not all(hasattr(place.module, "attn") and hasattr(place.module, "mlp") for place in places):
        raise UserError(
            f"{method} stands in transformer blocks, which {type(model).__name__} has not: "
            f"choose a ViT or a Swin as the backbone"
        )
    return places


def vit_blocks(model: nn.Module) -> Iterator[BlockInfo]:
    """The blocks of a plain vision transformer: one width, one grid, prefix tokens first."""
    blocks, embed = getattr(model, "blocks", None), getattr(model, "patch_embed", None)
    if not isinstance(blocks, nn.Sequential) or not hasattr(model, "num_prefix_tokens"):
        return
    if getattr(embed, "grid_size", None) is None:
        raise UserError(
            f"{type(model).__name__} gives no grid (patch_embed.grid_size): create it with a fixed img_size"
        )
    for name, _ in blocks.named_children():
        yield BlockInfo(
            owner=blocks,
            name=name,
            dim=int(model.embed_dim),
            grid=tuple(embed.grid_size),
            num_prefix_tokens=int(model.num_prefix_tokens),
            layout="tokens",
        )


def swin_blocks(model: nn.Module) -> Iterator[BlockInfo]:
    """The blocks of a Swin: width and grid change by stage, and every block knows its own."""
    for stage in getattr(model, "layers", None) or ():
        for name, block in getattr(stage, "blocks", nn.Module()).named_children():
            if hasattr(block, "input_resolution"):
                yield BlockInfo(
                    owner=stage.blocks,
                    name=name,
                    dim=int(block.dim),
                    grid=tuple(block.input_resolution),
                    num_prefix_tokens=0,
                    layout="channels_last",
                )


def convnext_blocks(model: nn.Module) -> Iterator[BlockInfo]:
    """The blocks of a ConvNeXt: the grid is the configured image size over the stage's stride."""
    for stage, facts in zip(getattr(model, "stages", None) or (), getattr(model, "feature_info", ()), strict=False):
        for name, block in getattr(stage, "blocks", nn.Module()).named_children():
            if hasattr(block, "conv_dw"):
                height, width = model.pretrained_cfg["input_size"][1:]
                yield BlockInfo(
                    owner=stage.blocks,
                    name=name,
                    dim=int(facts["num_chs"]),
                    grid=(height // facts["reduction"], width // facts["reduction"]),
                    num_prefix_tokens=0,
                    layout="channels_first",
                )


def to_tokens(x: Tensor, layout: Layout) -> Tensor:
    """Any layout as (B, N, C)."""
    if layout == "tokens":
        return x
    return x.flatten(1, 2) if layout == "channels_last" else x.flatten(2).transpose(1, 2)


def from_tokens(tokens: Tensor, layout: Layout, like: Tensor) -> Tensor:
    """(B, N, C) back in the layout and shape of `like`."""
    return tokens.transpose(1, 2).reshape(like.shape) if layout == "channels_first" else tokens.reshape(like.shape)
