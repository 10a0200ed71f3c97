"""Reads a tar of photographs and writes views of them (original, mirrored, cropped) as uint8 arrays."""

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

SIZE = 64  # pixels per side
CROP_AREA = (0.35, 1.0)  # share of the image
COLOR_JITTER = 0.3  # largest relative change of brightness, contrast and saturation


def make_views(tar: Path, folder: Path, *, num_views: int, seed: int) -> list[Path]:
    """Returns the files `view-K.npy`, uint8 (N, 64, 64, 3), in the order of the names in the tar; writes missing ones.

    View 0 has the original images, view 1 their mirror images, and each other view random crops with random flips and
    color jitter.

    Raises:
        UserError: If the tar does not exist, or has anything but images of 64 x 64 pixels.
    """
    files = [folder / f"view-{number}.npy" for number in range(num_views)]
    for number, file in enumerate(files):
        if not file.exists():
            originals = np.stack([np.asarray(image) for image in read_images(tar)]) if number == 0 else None
            images = np.load(files[0], mmap_mode="r") if originals is None else originals
            write_view(images, file, number, seed=seed)
    return files


def write_view(originals: np.ndarray, file: Path, number: int, *, seed: int) -> None:
    """Writes one view of all images."""
    with atomic_write(file) as temporary, progress_bar() as bar:
        task = bar.add_task(file.name, total=len(originals), note="")
        array = open_memmap(temporary, mode="w+", dtype=np.uint8, shape=originals.shape)
        for index, pixels in enumerate(originals):
            array[index] = pixels if number == 0 else make_view(Image.fromarray(pixels), number, index, seed=seed)
            bar.advance(task)
        array.flush()


def make_view(image: Image.Image, number: int, index: int, *, seed: int) -> np.ndarray:
    """Returns view 1 or above of the image at `index`, as uint8 (64, 64, 3)."""
    if number == 1:
        return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    random = np.random.default_rng(derive_seed(seed, "view", number, index))
    side = SIZE * float(np.sqrt(random.uniform(*CROP_AREA)))
    left, top = random.uniform(0, SIZE - side, size=2)
    crop = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        crop = enhance(crop).enhance(float(random.uniform(1 - COLOR_JITTER, 1 + COLOR_JITTER)))
    if random.integers(2):
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(crop)


def read_images(tar: Path) -> list[Image.Image]:
    """Returns the images of a tar as RGB, sorted by name."""
    if not tar.is_file():
        raise UserError(f"--images {tar}: there is no such file; give a tar of 64 px photographs")
    with tarfile.open(tar) as archive:
        members = sorted((member for member in archive.getmembers() if member.isfile()), key=lambda member: member.name)
        files = [archive.extractfile(member) for member in members]
        images = [Image.open(io.BytesIO(file.read())).convert("RGB") for file in files if file is not None]
    if not images or any(image.size != (SIZE, SIZE) for image in images):
        raise UserError(f"--images {tar}: it must contain images of {SIZE} x {SIZE} pixels and nothing else")
    return images


def normalize(images: np.ndarray, *, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Returns uint8 images (B, S, S, 3) as normalized float32 (B, 3, S, S)."""
    scaled = torch.tensor(np.asarray(images)).float() / 255
    return ((scaled - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
