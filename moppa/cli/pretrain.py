"""Pretrains vit_micro on 64 px photographs: moppa pretrain --images TAR --teacher FILE --out FILE.

Views, teacher features and checkpoints go to --work, and the same command resumes from them. With --objective masked no
teacher is needed.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers.config import set_fused_attn

from moppa.cli.errors import prints_errors
from moppa.pretrain.images import make_views
from moppa.pretrain.loop import PretrainRecipe, View, pretrain
from moppa.pretrain.objectives import Distill, MaskedAutoencoder, create_student
from moppa.pretrain.teacher import load_teacher, token_statistics, write_tokens
from moppa.pretrain.weights import write_weights
from moppa.utils.atomic import sha256_file
from moppa.utils.paths import user_path

NUM_STATISTICS_IMAGES = 3000


@prints_errors()
def main() -> int:
    """Writes the weights; prints their sha256 and the loss of each epoch."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    set_fused_attn(False)  # on a CPU in bfloat16 the fused attention takes half of the step
    losses = run_pretraining(arguments)
    result = {"weights": str(arguments.out), "sha256": sha256_file(arguments.out), "losses": losses}
    print(json.dumps(result, indent=2))
    return 0


def run_pretraining(arguments: argparse.Namespace) -> list[float]:
    """Writes the pretrained weights and returns the loss of each epoch."""
    views = make_views(arguments.images, arguments.work, num_views=arguments.views, seed=arguments.seed)
    teacher = load_teacher(arguments.teacher) if arguments.objective == "distill" else None
    vit: Any = create_student(arguments.seed)

    def load_view(epoch: int) -> View:
        number = epoch % len(views)
        images = np.load(views[number], mmap_mode="r")
        if teacher is None:
            return images, None
        tokens = write_tokens(views[number], arguments.work / f"tokens-{number}.npy", teacher)
        return images, np.load(tokens, mmap_mode="r")

    if teacher is None:
        objective = MaskedAutoencoder(vit)
    else:
        load_view(0)  # the statistics need the tokens of the first view
        objective = Distill(vit, *token_statistics(arguments.work / "tokens-0.npy", num_images=NUM_STATISTICS_IMAGES))
    recipe = PretrainRecipe(
        epochs=arguments.epochs,
        batch_size=128,
        lr=arguments.lr,
        weight_decay=0.05,
        warmup=0.05,
        clip=3.0,
        seed=arguments.seed,
        mean=vit.pretrained_cfg["mean"],
        std=vit.pretrained_cfg["std"],
    )
    checkpoint = arguments.work / f"{arguments.objective}-{arguments.epochs}.pt"
    losses = pretrain(objective, load_view, recipe=recipe, checkpoint=checkpoint)
    write_weights(vit, arguments.out)
    return losses


def parse_arguments() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=user_path, required=True, metavar="TAR", help="tar of 64 x 64 px photographs")
    parser.add_argument("--teacher", type=user_path, metavar="FILE", help="DINOv2 ViT-S/14, safetensors or pth")
    parser.add_argument("--out", type=user_path, required=True, metavar="FILE", help="file for the pretrained weights")
    parser.add_argument("--objective", choices=("distill", "masked"), default="distill", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=8, help="passes over one view each (default: %(default)s)")
    parser.add_argument(
        "--views", type=int, default=2, help="1 original, 2 also mirrored, 3 or more also crops (default: %(default)s)"
    )
    parser.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--work",
        type=user_path,
        default=Path("data/pretrain"),
        help="views, features and checkpoints (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.objective == "distill" and arguments.teacher is None:
        parser.error("--objective distill needs --teacher FILE")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
