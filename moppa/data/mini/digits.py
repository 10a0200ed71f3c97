"""Real handwritten digits: the 1,797 images of 8 x 8 pixels that come with scikit-learn.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, its test split; CC BY 4.0.
"""

import hashlib
from functools import cache
from typing import Any

import numpy as np


def digit(seed: int, index: int) -> tuple[np.ndarray, int]:
    """Returns image `index` in the order of the seed, uint8 (8, 8) with values 0 to 16, and its class."""
    images, labels, order = shuffled_digits(seed)
    return images[order[index]], int(labels[order[index]])


@cache
def shuffled_digits(seed: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Returns all images (1797, 8, 8), their classes, and an order that sha256 derives from the seed."""
    from sklearn.datasets import load_digits  # here because the import takes a second that other tasks do not need

    digits: Any = load_digits()
    num_images = len(digits.target)
    order = sorted(range(num_images), key=lambda index: hashlib.sha256(f"digits/{seed}/{index}".encode()).digest())
    return digits.images.astype(np.uint8), digits.target, order
