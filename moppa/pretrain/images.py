"""A tar of small photographs -> uint8 arrays on disk, one for each view of them: as they are, mirrored, or cropped."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from PIL import Image, ImageEnhance

from moppa.utils.atomic import atomic_write
from moppa.utils.errors import UserError
from moppa.utils.progress import progress_bar
from moppa.utils.seeds import derive_seed

SIZE = 64  # pixels a side of what the small backbone sees
CROP = (0.35, 1.0)  # share of the area that a crop keeps
COLOR = 0.3  # brightness, contrast and saturation change by at most this share


def make_views(tar: Path, folder: Path, *, num_views: int, seed: int) -> list[Path]:
    """The files `view-K.npy`, uint8 (N, 64, 64, 3): made where they are missing, in the order of the tar's names.

    View 0 holds the images as they are, view 1 mirrors them, and the others are crops of random place, size,
    direction and color. Raises `UserError` where the tar is absent or holds no image of 64 pixels.
    """
    files = [folder / f"view-{number}.npy" for number in range(num_views)]
    for number, file in enumerate(files):
        if not file.exists():
            images = [view(image, number, seed=seed) for image in read(tar)] if number == 0 else None
            base = np.stack(images) if images else np.load(files[0], mmap_mode="r")
            write_view(base, file, number, seed=seed)
    return files


def write_view(base: np.ndarray, file: Path, number: int, *, seed: int) -> None:
    """One view of all images, written whole or not at all."""
    with atomic_write(file) as temporary, progress_bar() as bar:
        line = bar.add_task(file.name, total=len(base), note="")
        made = open_memmap(temporary, mode="w+", dtype=np.uint8, shape=base.shape)
        for index, pixels in enumerate(base):
            made[index] = pixels if number == 0 else view(Image.fromarray(pixels), number, seed=seed, index=index)
            bar.advance(line)
        made.flush()


def view(image: Image.Image, number: int, *, seed: int, index: int = 0) -> np.ndarray:
    """View `number` of an image as uint8 (64, 64, 3); a crop depends on `seed`, `number` and the image's `index`."""
    if number == 0:
        return np.asarray(image)
    if number == 1:
        return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    draw = np.random.default_rng(derive_seed(seed, "view", number, index))
    side = SIZE * float(np.sqrt(draw.uniform(*CROP)))
    left, top = draw.uniform(0, SIZE - side, size=2)
    cropped = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        cropped = kind(cropped).enhance(float(draw.uniform(1 - COLOR, 1 + COLOR)))
    if draw.integers(2):
        cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(cropped)


def read(tar: Path) -> list[Image.Image]:
    """The images of a tar, RGB, sorted by name."""
    if not tar.is_file():
        raise UserError(f"pretraining images: there is no {tar}; give the tar of 64 px photographs with --images FILE")
    with tarfile.open(tar) as archive:
        members = sorted((member for member in archive.getmembers() if member.isfile()), key=lambda one: one.name)
        images = [Image.open(io.BytesIO(archive.extractfile(one).read())).convert("RGB") for one in members]
    if not images or any(image.size != (SIZE, SIZE) for image in images):
        raise UserError(f"pretraining images: {tar} must hold images of {SIZE} x {SIZE} pixels and nothing else")
    return images


def as_input(images: np.ndarray, *, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """uint8 (B, S, S, 3) -> normalized float32 (B, 3, S, S)."""
    scaled = torch.tensor(np.asarray(images)).float() / 255
    return ((scaled - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
