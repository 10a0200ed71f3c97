"""Resizes images to squares, and computes sha256 digests of images."""

import hashlib
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from moppa.data.decode import to_rgb

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
BLOCK_BYTES = 1 << 22  # hashed at a time
NUM_THREADS = min(8, os.cpu_count() or 1)  # more threads would wait for the disk or for each other


@dataclass(frozen=True)
class ImageFormat:
    """The format of cached images: RGB squares of `size` pixels, resized by Pillow with `interpolation`."""

    size: int
    interpolation: str

    @property
    def image_bytes(self) -> int:
        """The bytes of one image."""
        return 3 * self.size**2


def resize(image: bytes | np.ndarray, image_format: ImageFormat, *, pixel_scale: int) -> np.ndarray:
    """Returns an encoded image or a uint8 array (H, W) or (H, W, 1 or 3) as RGB uint8 (size, size, 3), not cropped."""
    return resize_rgb(to_rgb(image, pixel_scale), image_format)


def resize_rgb(picture: Image.Image, image_format: ImageFormat) -> np.ndarray:
    """Returns a picture as uint8 (size, size, 3), not cropped."""
    size = image_format.size
    return np.asarray(picture.resize((size, size), INTERPOLATIONS[image_format.interpolation]))


def hash_picture(picture: Image.Image) -> bytes:
    """Returns the sha256 of the width, height and pixels of a picture."""
    digest = hashlib.sha256(b"%d %d\n" % picture.size)
    digest.update(picture.tobytes())  # apart from the size: joining them would copy the pixels
    return digest.digest()


def hash_array(array: np.ndarray) -> bytes:
    """Returns the sha256 of the bytes of an array."""
    return hashlib.sha256(np.ascontiguousarray(array).data).digest()


def hash_images(images: np.ndarray) -> str:
    """Returns the sha256 of the sha256 digests of all images (N, S, S, 3), in order.

    Each image has its own digest, so several threads can compute them. The array is read in blocks, and a
    memory-mapped array stays on disk.
    """
    images_per_block = max(1, BLOCK_BYTES // max(1, images[:1].nbytes))

    def block_digests(start: int) -> bytes:
        digests = b"".join(hash_array(image) for image in images[start : start + images_per_block])
        release_pages(images)
        return digests

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        digests = pool.map(block_digests, range(0, len(images), images_per_block))
        return hashlib.sha256(b"".join(digests)).hexdigest()


def release_pages(images: np.ndarray) -> None:
    """Releases the memory pages of a memory-mapped array; any other array is left as it is."""
    if isinstance(images, np.memmap) and isinstance(images.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        images.base.madvise(mmap.MADV_DONTNEED)
