"""Draws a light and a dark disc among boxes of any color: in which direction is the dark one from the light one?

The discs are far apart and anywhere, so neither of them shows the answer: only the relation of the two does.
"""

import numpy as np

from moppa.data.mini.canvas import (
    SIDE,
    add_noise,
    box,
    clouds,
    disc,
    local_axes,
    mask,
    paint,
    random_color,
    rotation,
    to_bytes,
)
from moppa.data.mini.draws import Draws

NUM_DIRECTIONS = 12
MARGIN = 6.0  # pixels at each side of the image without the center of a disc


def direction(seed: int, index: int) -> tuple[np.ndarray, int]:
    """Draws the discs 20 to 36 pixels apart. The class is the direction, one of 12 bins of 30 degrees."""
    draws = Draws("pairs_direction", seed, index)
    label = draws.below(NUM_DIRECTIONS)
    width = 360 // NUM_DIRECTIONS
    cosine, sine = rotation(label * width + draws.below(width))
    half = draws.between(10.0, 18.0)  # of the way from one disc to the other
    dx, dy = cosine * half, sine * half
    x = draws.between(MARGIN + abs(dx), SIDE - MARGIN - abs(dx))
    y = draws.between(MARGIN + abs(dy), SIDE - MARGIN - abs(dy))
    image = clutter(draws)
    for center, low in (((x - dx, y - dy), 0.88), ((x + dx, y + dy), 0.0)):
        u, v = local_axes(*center, 0)
        color = random_color(draws, low, low + 0.12)
        image = paint(image, mask(disc(u, v, draws.between(3.5, 5.0))), color)
    return to_bytes(add_noise(image, draws, draws.between(0.03, 0.07))), label


def clutter(draws: Draws) -> np.ndarray:
    """Draws two to six boxes of any color and rotation over clouds."""
    first, second = (random_color(draws, 0.3, 0.7) for _ in range(2))
    image = paint(np.zeros((SIDE, SIDE, 3)) + first, clouds(draws, 4), second)
    for _ in range(2 + draws.below(5)):
        u, v = local_axes(draws.between(4.0, SIDE - 4.0), draws.between(4.0, SIDE - 4.0), draws.below(360))
        shape = box(u, v, draws.between(2.0, 5.0), draws.between(2.0, 5.0))
        image = paint(image, mask(shape), random_color(draws, 0.1, 0.9))
    return image
