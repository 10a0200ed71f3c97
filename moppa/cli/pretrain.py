"""Pretrains vit_micro on 64 px photographs: python scripts/pretrain_micro.py --images TAR --teacher FILE --out FILE.

Everything that is computed lies in --work, and the same command goes on from there; --objective masked needs
no teacher.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timm.layers.config import set_fused_attn

from moppa.pretrain.images import make_views
from moppa.pretrain.loop import Pretraining, View, pretrain
from moppa.pretrain.objectives import Distill, Masked, student
from moppa.pretrain.teacher import extract_features, feature_std, teacher_from
from moppa.pretrain.weights import write_weights
from moppa.utils.atomic import sha256_file
from moppa.utils.errors import UserError


def main() -> int:
    """Writes the weights, and prints their sha256 and the loss by epoch."""
    asked = arguments()
    torch.set_num_threads(asked.threads)
    set_fused_attn(False)  # on a CPU in bfloat16 the fused attention takes half of a step
    how = Pretraining(
        epochs=asked.epochs, batch_size=128, lr=asked.lr, weight_decay=0.05, warmup=0.05, clip=3.0, seed=asked.seed
    )
    try:
        views = make_views(asked.images, asked.work, num_views=asked.views, seed=asked.seed)
        vit = student(asked.seed)
        facts = vit.pretrained_cfg
        if asked.objective == "distill":
            view_of = partial(with_teacher, views, asked.work, teacher_from(asked.teacher))
            view_of(0)
            objective = Distill(vit, *feature_std(asked.work / "tokens-0.npy", num_images=3000))
        else:
            view_of = partial(alone, views)
            objective = Masked(vit)
        losses = pretrain(
            objective,
            view_of,
            how=how,
            mean=facts["mean"],
            std=facts["std"],
            checkpoint=asked.work / f"{asked.objective}-{asked.epochs}.pt",
        )
        write_weights(vit, asked.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"weights": str(asked.out), "sha256": sha256_file(asked.out), "losses": losses}, indent=2))
    return 0


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, metavar="TAR", help="photographs of 64 x 64 pixels")
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="DINOv2 ViT-S/14, safetensors or pth")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the weights go")
    parser.add_argument("--objective", choices=("distill", "masked"), default="distill")
    parser.add_argument("--epochs", type=int, default=8, help="passes over one view each (%(default)s)")
    parser.add_argument("--views", type=int, default=2, help="as they are, mirrored, and crops (%(default)s)")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("data/pretrain"), help="features and checkpoints")
    asked = parser.parse_args()
    if asked.objective == "distill" and asked.teacher is None:
        parser.error("--objective distill needs --teacher FILE")
    return asked


def with_teacher(views: list[Path], work: Path, teacher: torch.nn.Module, epoch: int) -> View:
    """The view of an epoch, and the teacher's tokens for it, computed now where they are not there."""
    number = epoch % len(views)
    tokens = extract_features(views[number], work / f"tokens-{number}.npy", teacher)
    return np.load(views[number], mmap_mode="r"), np.load(tokens, mmap_mode="r")


def alone(views: list[Path], epoch: int) -> View:
    """The view of an epoch."""
    return np.load(views[epoch % len(views)], mmap_mode="r"), None


if __name__ == "__main__":
    sys.exit(main())
