"""Draws cells under a microscope: about how many are there, through blur, uneven light and noise?"""

import numpy as np

from moppa.data.mini.canvas import (
    SIDE,
    add_noise,
    blur,
    clouds,
    disc,
    ellipse,
    local_axes,
    mask,
    paint,
    soft_noise,
    to_bytes,
)
from moppa.data.mini.draws import Draws

NUM_CLASSES = 6
STAINS = ((0.55, 0.25, 0.6), (0.2, 0.6, 0.3), (0.65, 0.3, 0.35), (0.3, 0.4, 0.75))


def count(seed: int, index: int) -> tuple[np.ndarray, int]:
    """Draws cells with a nucleus, and specks. An image of class c has 2 c + 1 or 2 c + 2 cells, so 1 to 12."""
    draws = Draws("spots", seed, index)
    label = draws.below(NUM_CLASSES)
    stain, light = np.asarray(draws.pick(STAINS)), draws.between(0.75, 0.95)
    image = np.full((SIDE, SIDE, 3), light)
    size = draws.between(4.0, 7.5)
    for _ in range(2 * label + 1 + draws.below(2)):
        image = add_cell(image, draws, stain, size * draws.between(0.75, 1.25))
    for _ in range(draws.below(12)):
        u, v = local_axes(draws.between(0.0, SIDE), draws.between(0.0, SIDE), 0)
        image = paint(image, mask(disc(u, v, draws.between(0.4, 1.2))) * 0.7, stain * 0.5)
    image = image * (0.75 + 0.35 * soft_noise(draws, 2))[..., None] + (clouds(draws, 8) * 0.1 - 0.05)[..., None]
    return to_bytes(add_noise(blur(image, draws.below(4)), draws, draws.between(0.02, 0.12))), label


def add_cell(image: np.ndarray, draws: Draws, stain: np.ndarray, size: float) -> np.ndarray:
    """Returns the image with one more cell: a pale oval in the color of the stain with a darker nucleus."""
    u, v = local_axes(draws.between(4.0, SIDE - 4.0), draws.between(4.0, SIDE - 4.0), draws.below(360))
    opacity = draws.between(0.35, 0.75)
    body = paint(image, mask(ellipse(u, v, size, size * draws.between(0.65, 1.0))) * opacity, stain)
    nucleus = ellipse(u - size * draws.between(-0.3, 0.3), v, size * 0.42, size * 0.36)
    return paint(body, mask(nucleus) * opacity, stain * 0.45)
