"""Pretraining objectives without labels: distillation of a teacher's features, and a masked autoencoder.

Sources: DINOv2 (Oquab et al., arXiv 2304.07193) for the distillation of class and patch tokens, here with one linear
map for each; masked autoencoders (He et al., arXiv 2111.06377).
"""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

import moppa.backbone.vit_micro  # noqa: F401 - registers the student in timm

STUDENT = "vit_micro_patch8_64"


def create_student(seed: int) -> nn.Module:
    """Returns vit_micro with random weights that depend on the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model(STUDENT, pretrained=False, num_classes=0)


class Distill(nn.Module):
    """The mean squared error between the student's tokens and the teacher's standardized tokens.

    The class token and the patch tokens have a linear map each, which is discarded after training. The loss is the sum
    of both errors.

    Args:
        vit: The student.
        mean: Mean of the teacher's class and patch tokens per channel, (2, D).
        std: Standard deviation, likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vit: Any, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.vit: Any = vit
        self.heads = nn.ModuleList(nn.Linear(vit.embed_dim, mean.shape[1]) for _ in range(2))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        """Returns the loss of images (B, 3, 64, 64) against the teacher's tokens (B, 65, D)."""
        del generator  # nothing is random here
        tokens = self.vit.forward_features(images)
        pairs = zip((tokens[:, :1], tokens[:, 1:]), (target[:, :1], target[:, 1:]), strict=True)
        losses = [
            F.mse_loss(head(student).float(), (teacher - mean) / std)
            for head, (student, teacher), mean, std in zip(self.heads, pairs, self.mean, self.std, strict=True)
        ]
        return losses[0] + losses[1]


class MaskedAutoencoder(nn.Module):
    """The mean squared error of the masked patches, which a small decoder predicts from the visible ones.

    The pixels of a patch are normalized by their own mean and standard deviation.

    Args:
        vit: The student, which encodes the visible patches.
        mask_ratio: Share of the patches that are masked.
        width: Width of the decoder.
        depth: Number of blocks of the decoder.
    """

    def __init__(self, vit: Any, *, mask_ratio: float = 0.75, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        self.vit: Any = vit
        self.num_visible = round(vit.patch_embed.num_patches * (1 - mask_ratio))
        self.patch_size = vit.patch_embed.patch_size[0]
        self.embed = nn.Linear(vit.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + vit.patch_embed.num_patches, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, num_heads=width // 32, qkv_bias=True) for _ in range(depth)))
        self.predict = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * self.patch_size**2))

    def forward(self, images: Tensor, target: Tensor | None, generator: torch.Generator) -> Tensor:
        """Returns the loss of images (B, 3, 64, 64); `generator` draws the masks."""
        del target  # the images are the target
        vit, batch_size = self.vit, len(images)
        patches = vit.patch_embed(images) + vit.pos_embed[:, 1:]
        order = torch.rand(patches.shape[:2], generator=generator).argsort(1)
        visible, masked = order[:, : self.num_visible], order[:, self.num_visible :]

        # encoder, on the visible patches
        class_token = (vit.cls_token + vit.pos_embed[:, :1]).expand(batch_size, -1, -1)
        encoded = vit.norm(vit.blocks(torch.cat([class_token, gather_tokens(patches, visible)], 1)))

        # decoder, on all patches in their original order
        tokens = self.embed(encoded)
        tokens = torch.cat([tokens, self.mask_token.expand(batch_size, masked.shape[1], -1).to(tokens.dtype)], 1)
        restore = torch.cat([torch.zeros(batch_size, 1, dtype=torch.long), order.argsort(1) + 1], 1)
        predicted = self.predict(self.blocks(gather_tokens(tokens, restore) + self.pos_embed))[:, 1:]
        return F.mse_loss(
            gather_tokens(predicted, masked).float(), gather_tokens(self.normalized_patches(images), masked)
        )

    def normalized_patches(self, images: Tensor) -> Tensor:
        """Returns images (B, 3, S, S) as patches (B, N, 3 P P), each with mean 0 and standard deviation 1."""
        patches = F.unfold(images, self.patch_size, stride=self.patch_size).transpose(1, 2)
        return (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Returns the tokens (B, M, C) at the indices (B, M) of tokens (B, N, C)."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
