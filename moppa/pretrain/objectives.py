"""Two ways to learn without labels: agree with a teacher's features, or fill in the patches that are not seen.

Sources: DINOv2's distillation of features (Oquab et al., arXiv 2304.07193) in its simplest form, a linear map for each
kind of token; masked autoencoders (He et al., arXiv 2111.06377).
"""

import math
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

import moppa.backbone.vit_micro  # noqa: F401, timm knows the student by it

STUDENT = "vit_micro_patch8_64"


def student(seed: int) -> nn.Module:
    """The untrained small backbone, from its seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model(STUDENT, pretrained=False, num_classes=0)


class Distill(nn.Module):
    """The student's class token and patch tokens, each through a linear map that is thrown away, match the teacher's.

    The teacher's features are standardized by channel with `mean` and `std` (2, D), for class and patch tokens apart;
    the loss is the sum of both kinds' mean squared errors.
    """

    def __init__(self, vit: Any, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.vit: Any = vit
        self.heads = nn.ModuleList(nn.Linear(vit.embed_dim, mean.shape[1]) for _ in range(2))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of images (B, 3, 64, 64) against the teacher's tokens (B, 65, D); nothing is drawn."""
        del generator
        tokens = self.vit.forward_features(images)
        pairs = zip((tokens[:, :1], tokens[:, 1:]), (target[:, :1], target[:, 1:]), strict=True)
        losses = [
            F.mse_loss(head(mine).float(), (theirs - mean) / std)
            for head, (mine, theirs), mean, std in zip(self.heads, pairs, self.mean, self.std, strict=True)
        ]
        return losses[0] + losses[1]


class Masked(nn.Module):
    """A quarter of the patches goes through the student, and two blocks guess the pixels of the others from them.

    The pixels of a patch are normalized by their own mean and deviation; the loss is over what was not seen.
    """

    def __init__(self, vit: Any, *, share: float = 0.75, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        self.vit: Any = vit
        self.num_kept = round(vit.patch_embed.num_patches * (1 - share))
        self.patch = vit.patch_embed.patch_size[0]
        self.enter = nn.Linear(vit.embed_dim, width)
        self.blank = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 1 + vit.patch_embed.num_patches, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, num_heads=width // 32, qkv_bias=True) for _ in range(depth)))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * self.patch**2))

    def forward(self, images: Tensor, target: Tensor | None, generator: torch.Generator) -> Tensor:
        """The loss of images (B, 3, 64, 64); `generator` draws the masks, and there is no target."""
        del target
        vit, count = self.vit, len(images)
        patches = vit.patch_embed(images) + vit.pos_embed[:, 1:]
        order = torch.rand(patches.shape[:2], generator=generator).argsort(1)
        kept, hidden = order[:, : self.num_kept], order[:, self.num_kept :]
        first = (vit.cls_token + vit.pos_embed[:, :1]).expand(count, -1, -1)
        seen = self.enter(vit.norm(vit.blocks(torch.cat([first, rows(patches, kept)], 1))))
        full = torch.cat([seen, self.blank.expand(count, hidden.shape[1], -1).to(seen.dtype)], 1)
        back = torch.cat([torch.zeros(count, 1, dtype=torch.long), order.argsort(1) + 1], 1)
        guessed = self.leave(self.blocks(rows(full, back) + self.place))[:, 1:]
        return F.mse_loss(rows(guessed, hidden).float(), rows(self.pixels(images), hidden))

    def pixels(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) as patches (B, N, 3 P P), each normalized."""
        cut = F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        return (cut - cut.mean(-1, keepdim=True)) / (cut.var(-1, keepdim=True) + 1e-6).sqrt()


def rows(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, N, C) at the places (B, M) -> (B, M, C)."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def lr_at(step: int, num_steps: int, *, peak: float, warmup: float) -> float:
    """A linear rise over the first `warmup` share of the steps, then a cosine to zero."""
    rising = warmup * num_steps
    if step < rising:
        return peak * (step + 1) / rising
    return peak * (1 + math.cos(math.pi * (step - rising) / (num_steps - rising))) / 2
