"""What a large frozen backbone says of every image, once: a memory-mapped array that grows and can be resumed."""

import json
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from filelock import FileLock
from numpy.lib.format import open_memmap
from timm.data.config import resolve_model_data_config
from torch import nn

from moppa.backbone.weights import load_weights
from moppa.pretrain.images import as_input
from moppa.utils.atomic import atomic_write
from moppa.utils.progress import progress_bar

TEACHER = "vit_small_patch14_dinov2.lvd142m"
IMAGE_SIZE = 112  # 8 x 8 patches of 14 pixels: the student's own grid
NUM_TOKENS = 65  # the class token, then the patches row by row
BATCH = 60


def teacher_from(weights: Path) -> nn.Module:
    """DINOv2 ViT-S/14 at 112 px, frozen, in bfloat16: its features are stored as float16 and need no more."""
    model = timm.create_model(TEACHER, img_size=IMAGE_SIZE, num_classes=0)
    load_weights(model, weights, untrained=(), unused=())
    return model.eval().requires_grad_(False).bfloat16()


@torch.inference_mode()
def tokens_of(model: nn.Module, images: np.ndarray) -> torch.Tensor:
    """uint8 (B, 64, 64, 3), enlarged to 112 px -> the tokens after the last norm, float32 (B, 65, 384)."""
    facts = resolve_model_data_config(model)
    seen = F.interpolate(
        as_input(images, mean=facts["mean"], std=facts["std"]), IMAGE_SIZE, mode="bicubic", align_corners=False
    )
    return model.forward_features(seen.bfloat16()).float()


def extract_features(view: Path, file: Path, model: nn.Module) -> Path:
    """The file with the teacher's tokens for a view, float16 (N, 65, 384), computed from where it was left."""
    with FileLock(file.with_suffix(".lock")):
        compute(view, file, model)
    return file


def compute(view: Path, file: Path, model: nn.Module) -> None:
    """Fills the file from where its journal says that it was left."""
    images = np.load(view, mmap_mode="r")
    journal = file.with_suffix(".json")
    done = json.loads(journal.read_text())["done"] if journal.exists() and file.exists() else 0
    if done == len(images):
        return
    shape = (len(images), NUM_TOKENS, model.num_features)
    stored = open_memmap(file, mode="r+" if done else "w+", dtype=np.float16, shape=None if done else shape)
    with progress_bar() as bar:
        line = bar.add_task(file.name, total=len(images), completed=done, note="")
        for first in range(done, len(images), BATCH):
            stored[first : first + BATCH] = tokens_of(model, images[first : first + BATCH]).numpy()
            done = min(first + BATCH, len(images))
            if done % (20 * BATCH) == 0 or done == len(images):
                stored.flush()
                with atomic_write(journal) as temporary:
                    temporary.write_text(json.dumps({"done": done}))
            bar.update(line, completed=done)


def feature_std(file: Path, *, num_images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation by channel, (2, D) each, of class and of patch tokens, over evenly spaced images."""
    stored = np.load(file, mmap_mode="r")
    tokens = torch.tensor(stored[:: max(1, len(stored) // num_images)]).float()
    kinds = [tokens[:, :1].flatten(0, 1), tokens[:, 1:].flatten(0, 1)]
    return torch.stack([kind.mean(0) for kind in kinds]), torch.stack([kind.std(0) for kind in kinds])
