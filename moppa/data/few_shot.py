"""Draws k training images of each class from a seed. The images of a smaller k are among those of a larger one."""

import hashlib
from collections.abc import Sequence

import numpy as np

from moppa.utils.errors import SettingError


def draw_images(
    ids: Sequence[str], labels: np.ndarray, *, shots: int, seed: int, num_classes: int, name: str
) -> np.ndarray:
    """Returns the indices of `shots` images of each class, ascending.

    The images of a class are ranked by the sha256 of the seed and their id, and the first ones are drawn: neither the
    order of the images nor those of other classes have an influence, and draws of the same seed are nested.

    Args:
        ids: what identifies each image: its name, or a digest of its pixels.
        labels: the classes of the images, (N,).
        shots: the number of images of each class.
        seed: another seed gives another draw.
        num_classes: the number of classes; each of them must have enough images.
        name: the split, for the error.

    Raises:
        SettingError: if a class has fewer images.
    """
    ranks = [hashlib.sha256(f"few_shot/{seed}/{id_}".encode("utf-8", "surrogateescape")).digest() for id_ in ids]
    by_class: list[list[int]] = [[] for _ in range(num_classes)]
    for index in sorted(range(len(ids)), key=lambda index: (ranks[index], index)):
        by_class[labels[index]].append(index)
    fewest = min(range(num_classes), key=lambda label: len(by_class[label]))
    if len(by_class[fewest]) < shots:
        raise SettingError(
            "protocol.shots",
            f"={shots}: class {fewest} has only {len(by_class[fewest])} images in {name}; choose fewer",
        )
    return np.sort([index for of_class in by_class for index in of_class[:shots]])
