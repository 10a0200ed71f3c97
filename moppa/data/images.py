"""An image as a source holds it becomes one of the store: decoded, tiled to RGB, squashed to a square, counted."""

import hashlib
import io
import mmap
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, UnidentifiedImageError

from moppa.utils.errors import UserError

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
PIECE_BYTES = 1 << 22
NUM_THREADS = min(8, os.cpu_count() or 1)  # more wait for the disk or for one another


def resize(image: bytes | np.ndarray, *, size: int, interpolation: str, pixel_scale: int) -> np.ndarray:
    """An encoded image or a uint8 array (H, W) or (H, W, 1 or 3) as RGB uint8 (size, size, 3), never cropped."""
    try:
        return np.asarray(to_rgb(image, pixel_scale).resize((size, size), INTERPOLATIONS[interpolation]))
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"an image cannot be decoded ({error}); the data set is damaged: prepare it again") from error


def to_rgb(image: bytes | np.ndarray, pixel_scale: int) -> Image.Image:
    """An encoded image or a uint8 array (H, W) or (H, W, 1 or 3) in color, its values times `pixel_scale`."""
    picture = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else Image.fromarray(image.squeeze())
    if pixel_scale != 1:
        picture = picture.point(lambda value: min(255, value * pixel_scale))
    # a conversion to what it is already would copy the whole picture
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def hash_array(array: np.ndarray) -> bytes:
    """The sha256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array)).digest()


def hash_images(images: np.ndarray) -> str:
    """The sha256 of the sha256s of all images (N, S, S, 3), in order, read in pieces so that a map stays on disk.

    One for each image, so that several threads can make them.
    """
    rows = max(1, PIECE_BYTES // max(1, images[:1].nbytes))

    def digests(start: int) -> bytes:
        found = b"".join(hash_array(image) for image in images[start : start + rows])
        release_pages(images)
        return found

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return hashlib.sha256(b"".join(pool.map(digests, range(0, len(images), rows)))).hexdigest()


def release_pages(images: np.ndarray) -> None:
    """What was read of an array mapped from disk counts as this process's memory no more; any other stays as it is."""
    if isinstance(images, np.memmap) and isinstance(images.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        images.base.madvise(mmap.MADV_DONTNEED)
