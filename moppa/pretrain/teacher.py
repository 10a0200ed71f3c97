"""The teacher's features of all images, computed once into a memory-mapped array. An interrupted run resumes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap
from timm.data.config import resolve_model_data_config
from torch import nn

from moppa.backbone.weights import load_weights
from moppa.pretrain.images import normalize
from moppa.utils.atomic import atomic_write
from moppa.utils.locks import file_lock
from moppa.utils.progress import progress_bar

TEACHER = "vit_small_patch14_dinov2.lvd142m"
IMAGE_SIZE = 112  # 8 x 8 patches of 14 pixels, the grid of the student
NUM_TOKENS = 65  # the class token, then the patches row by row
BATCH_SIZE = 60
BATCHES_PER_FLUSH = 20


def load_teacher(weights: Path) -> nn.Module:
    """Returns a frozen DINOv2 ViT-S/14 at 112 px in bfloat16; its features are stored as float16."""
    model = timm.create_model(TEACHER, img_size=IMAGE_SIZE, num_classes=0)
    load_weights(model, weights, untrained=(), unused=())
    return model.eval().requires_grad_(False).bfloat16()


@torch.inference_mode()
def extract_tokens(model: Any, images: np.ndarray) -> torch.Tensor:
    """Returns the tokens after the last norm, float32 (B, 65, 384), of uint8 images (B, 64, 64, 3)."""
    config = resolve_model_data_config(model)
    inputs = F.interpolate(
        normalize(images, mean=config["mean"], std=config["std"]), IMAGE_SIZE, mode="bicubic", align_corners=False
    )
    return model.forward_features(inputs.bfloat16()).float()


def write_tokens(view: Path, file: Path, model: Any) -> Path:
    """Writes the teacher's tokens for a view, float16 (N, 65, 384), and returns the file; resumes if it exists."""
    with file_lock(file.with_suffix(".lock"), waiting=f"another process writes {file}: waiting for it"):
        fill_tokens(view, file, model)
    return file


def fill_tokens(view: Path, file: Path, model: Any) -> None:
    """Computes the missing tokens of a file. A JSON file beside it has the number of finished images."""
    images = np.load(view, mmap_mode="r")
    progress_file = file.with_suffix(".json")
    done = (
        json.loads(progress_file.read_text(encoding="utf-8"))["done"] if progress_file.exists() and file.exists() else 0
    )
    if done == len(images):
        return
    shape = (len(images), NUM_TOKENS, model.num_features)
    tokens = open_memmap(file, mode="r+" if done else "w+", dtype=np.float16, shape=None if done else shape)
    with progress_bar() as bar:
        task = bar.add_task(file.name, total=len(images), completed=done, note="")
        for first in range(done, len(images), BATCH_SIZE):
            tokens[first : first + BATCH_SIZE] = extract_tokens(model, images[first : first + BATCH_SIZE]).numpy()
            done = min(first + BATCH_SIZE, len(images))
            if done % (BATCHES_PER_FLUSH * BATCH_SIZE) == 0 or done == len(images):
                tokens.flush()
                with atomic_write(progress_file) as temporary:
                    temporary.write_text(json.dumps({"done": done}))
            bar.update(task, completed=done)


def token_statistics(file: Path, *, num_images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and standard deviation per channel, (2, D) each, of class and patch tokens in a sample of images."""
    stored = np.load(file, mmap_mode="r")
    tokens = torch.tensor(stored[:: max(1, len(stored) // num_images)]).float()
    kinds = [tokens[:, :1].flatten(0, 1), tokens[:, 1:].flatten(0, 1)]
    return torch.stack([kind.mean(0) for kind in kinds]), torch.stack([kind.std(0) for kind in kinds])
