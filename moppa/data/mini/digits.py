"""Handwritten digits, real ones: the 1,797 images of 8 x 8 pixels that come with scikit-learn.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, its test part; CC BY 4.0.
"""

import hashlib
from functools import cache

import numpy as np


def digit(seed: int, index: int) -> tuple[np.ndarray, int]:
    """Image `index` of the seed's order of all, uint8 (8, 8) with values 0 to 16, and its class."""
    images, labels, order = shuffled(seed)
    return images[order[index]], int(labels[order[index]])


@cache
def shuffled(seed: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """All images (1797, 8, 8), their classes, and the order that the seed makes of them by sha256."""
    from sklearn.datasets import load_digits  # late: it costs a second that other tasks do not need

    data = load_digits()
    count = len(data.target)
    order = sorted(range(count), key=lambda one: hashlib.sha256(f"digits/{seed}/{one}".encode()).digest())
    return data.images.astype(np.uint8), data.target, order
