"""Draws one shape on a cloudy background: where is it, and which way does it point?

The questions are those of dSprites (Matthey et al. 2017) in VTAB. The images are ours, in color and with noise.
"""

from collections.abc import Callable

import numpy as np

from moppa.data.mini.canvas import (
    SIDE,
    add_noise,
    box,
    clouds,
    disc,
    ellipse,
    local_axes,
    mask,
    paint,
    random_color,
    to_bytes,
    triangle,
)
from moppa.data.mini.draws import Draws

NUM_LOCATIONS = 16
MARGIN = 8  # pixels at the left and right without the center of a shape
NUM_DIRECTIONS = 12

Shape = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def square(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    """Returns the distance to a square."""
    return box(u, v, size * 0.8, size * 0.8)


def oval(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    """Returns the distance to an ellipse that is longer along u."""
    return ellipse(u, v, size * 1.1, size * 0.6)


def dart(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    """Returns the distance to a long triangle that points along u."""
    return triangle(u * 0.7, v, size * 0.55)


def drop(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    """Returns the distance to a disc with a tip along u."""
    round_end, tip = disc(u + size * 0.4, v, size * 0.6), triangle(u - size * 0.05, v * 1.2, size * 0.45)
    return np.minimum(round_end, tip)


def half_disc(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    """Returns the distance to half a disc whose round side is along u."""
    return np.maximum(disc(u + size * 0.4, v, size), -u - size * 0.4)


LOCATION_SHAPES: tuple[Shape, ...] = (square, oval, dart, half_disc)
ORIENTATION_SHAPES: tuple[Shape, ...] = (dart, drop, half_disc)


def location(seed: int, index: int) -> tuple[np.ndarray, int]:
    """Draws a shape of any kind, size, color and direction. The class is its x coordinate, one of 16 bins of 3 px."""
    draws = Draws("sprites_location", seed, index)
    label = draws.below(NUM_LOCATIONS)
    width = (SIDE - 2 * MARGIN) / NUM_LOCATIONS
    x = MARGIN + (label + draws.between(0.0, 1.0)) * width
    return scene(draws, LOCATION_SHAPES, x=x, degree=draws.below(360)), label


def orientation(seed: int, index: int) -> tuple[np.ndarray, int]:
    """Draws a shape with a tip anywhere. The class is the direction of the tip, one of 12 bins of 30 degrees."""
    draws = Draws("sprites_orientation", seed, index)
    label = draws.below(NUM_DIRECTIONS)
    width = 360 // NUM_DIRECTIONS
    x = draws.between(14.0, SIDE - 14.0)
    return scene(draws, ORIENTATION_SHAPES, x=x, degree=label * width + draws.below(width), min_size=8.0), label


def scene(draws: Draws, shapes: tuple[Shape, ...], *, x: float, degree: int, min_size: float = 5.0) -> np.ndarray:
    """Draws one of the shapes at x, at any height, over clouds of two dark colors."""
    background = paint(
        np.zeros((SIDE, SIDE, 3)) + random_color(draws, 0.0, 0.45), clouds(draws, 4), random_color(draws, 0.0, 0.45)
    )
    u, v = local_axes(x, draws.between(14.0, SIDE - 14.0), degree)
    shape = draws.pick(shapes)(u, v, draws.between(min_size, min_size + 5.0))
    return to_bytes(add_noise(paint(background, mask(shape), random_color(draws, 0.45, 1.0)), draws, 0.04))
