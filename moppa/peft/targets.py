"""The linear layers of transformer blocks that weight methods adapt, by the papers' names: q, k, v, proj, fc1, fc2."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from moppa.peft.blocks import find_blocks
from moppa.utils import validate
from moppa.utils.errors import UserError

QKV = ("q", "k", "v")
PATHS = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
TARGETS = (*QKV, *PATHS)


@dataclass(frozen=True, kw_only=True)
class TargetLinear:
    """A linear layer, and which of the matrices that are stacked in its weight are adapted.

    timm stacks q, k and v in one weight; every other layer has one matrix.
    """

    owner: nn.Module
    name: str
    depth: int
    is_adapted: tuple[bool, ...]

    @property
    def layer(self) -> nn.Linear:
        """The layer that the owner has now."""
        return getattr(self.owner, self.name)

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
    matrices = {"attn.qkv": tuple(name in targets for name in QKV)}
    matrices |= {path: (True,) for target, path in PATHS.items() if target in targets}
    linears = []
    for depth, block in enumerate(find_blocks(model)):
        for path, is_adapted in matrices.items():
            if any(is_adapted):
                outer, _, name = path.rpartition(".")
                owner = getattr(block.module, outer, None)
                if owner is None or not isinstance(getattr(owner, name, None), nn.Linear):
                    raise UserError(
                        f"{method} adapts linear layers of transformer blocks, and those of {type(model).__name__} "
                        f"have no {path}: choose a ViT or a Swin as the backbone"
                    )
                linears.append(TargetLinear(owner=owner, name=name, depth=depth, is_adapted=is_adapted))
    return linears
