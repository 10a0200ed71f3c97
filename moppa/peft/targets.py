"""The linear layers of transformer blocks that weight methods adapt, by the papers' names: q, k, v, proj, fc1, fc2."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from moppa.peft.blocks import find_blocks
from moppa.peft.inject import unwrapped
from moppa.utils import validate
from moppa.utils.errors import UserError

QKV = ("q", "k", "v")
PATHS = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
GATED = ("mlp.fc1_g", "mlp.fc1_x")  # fc1 of a SwiGLU in two layers, as in EVA-02
TARGETS = (*QKV, *PATHS)


@dataclass(frozen=True, kw_only=True)
class TargetLinear:
    """A linear layer, and which of the matrices that are stacked in its weight are adapted.

    Most models of timm stack q, k and v in one weight; every other layer has one matrix.
    """

    owner: nn.Module
    name: str
    depth: int
    is_adapted: tuple[bool, ...]

    @property
    def layer(self) -> nn.Linear:
        """The linear layer, inside of the wrappers that the owner may have in its place."""
        return unwrapped(getattr(self.owner, self.name))

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(d_out, d_in) of one of the stacked matrices."""
        return self.layer.out_features // len(self.is_adapted), self.layer.in_features


def target_linears(model: nn.Module, targets: Sequence[str], *, method: str) -> list[TargetLinear]:
    """Returns the layers of all blocks that the targets name, by depth, qkv first.

    Raises:
        SettingError: if there is no target, or one is unknown or repeated.
        UserError: if a block has no such layer.
    """
    validate.subset("targets", targets, TARGETS)
    linears = []
    for depth, block in enumerate(find_blocks(model)):
        for path, is_adapted in target_paths(block.unwrapped, targets):
            outer, _, name = path.rpartition(".")
            owner = unwrapped(getattr(block.unwrapped, outer, None))
            if owner is None or not isinstance(unwrapped(getattr(owner, name, None)), nn.Linear):
                raise UserError(
                    f"{method} adapts linear layers of transformer blocks, and those of {type(model).__name__} "
                    f"have no {path}: choose a ViT or a Swin as the backbone"
                )
            linears.append(TargetLinear(owner=owner, name=name, depth=depth, is_adapted=is_adapted))
    return linears


def target_paths(block: Any, targets: Sequence[str]) -> Iterator[tuple[str, tuple[bool, ...]]]:
    """Yields the paths of the layers that the targets name in a block, and which of their matrices are adapted."""
    attention, mlp = (unwrapped(getattr(block, name, None)) for name in ("attn", "mlp"))
    if getattr(attention, "q_proj", None) is not None:
        yield from ((f"attn.{name}_proj", (True,)) for name in QKV if name in targets)
    elif any(name in targets for name in QKV):
        yield "attn.qkv", tuple(name in targets for name in QKV)
    for target, path in PATHS.items():
        if target in targets:
            is_gated = target == "fc1" and getattr(mlp, "fc1_g", None) is not None
            yield from ((name, (True,)) for name in (GATED if is_gated else (path,)))


def check_calls_qkv(attention: Any, *, method: str) -> None:
    """Raises `UserError` if an attention never calls its layer qkv, so that nothing can be added to the output."""
    if getattr(attention, "qkv", None) is None or getattr(attention, "q_bias", None) is not None:
        raise UserError(
            f"{method} adds to the output of the layer qkv, and {type(attention).__module__.rpartition('.')[2]} "
            f"never calls one: choose another backbone or another method"
        )
