"""One figure before a cloudy ground: where does it stand, and which way does it point?

The questions are dSprites' (Matthey et al. 2017) as VTAB asks them; the images are ours, in color and with noise.
"""

from collections.abc import Callable

import numpy as np

from moppa.data.mini.canvas import (
    SIDE,
    as_bytes,
    box,
    clouds,
    disc,
    ellipse,
    frame,
    mask,
    paint,
    random_color,
    triangle,
)
from moppa.data.mini.canvas import with_noise as noisy
from moppa.data.mini.draws import Draws

NUM_PLACES = 16
MARGIN = 8  # pixels left and right where no figure has its center
NUM_DIRECTIONS = 12

Figure = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def square(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    """A square."""
    return box(u, v, size * 0.8, size * 0.8)


def oval(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    """An ellipse, longer along u."""
    return ellipse(u, v, size * 1.1, size * 0.6)


def dart(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    """A long triangle that points along u."""
    return triangle(u * 0.7, v, size * 0.55)


def drop(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    """A disc with a point along u."""
    round_end, point = disc(u + size * 0.4, v, size * 0.6), triangle(u - size * 0.05, v * 1.2, size * 0.45)
    return np.minimum(round_end, point)


def half(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    """Half a disc, its round side along u."""
    return np.maximum(disc(u + size * 0.4, v, size), -u - size * 0.4)


PLACED: tuple[Figure, ...] = (square, oval, dart, half)
DIRECTED: tuple[Figure, ...] = (dart, drop, half)


def location(seed: int, index: int) -> tuple[np.ndarray, int]:
    """A figure of any kind, size, color and direction; the class is its horizontal place, one of 16 bins of 3 px."""
    draws = Draws("sprites_location", seed, index)
    place = draws.below(NUM_PLACES)
    width = (SIDE - 2 * MARGIN) / NUM_PLACES
    x = MARGIN + (place + draws.between(0.0, 1.0)) * width
    return scene(draws, PLACED, x=x, degree=draws.below(360)), place


def orientation(seed: int, index: int) -> tuple[np.ndarray, int]:
    """A figure with a point, anywhere; the class is where it points, one of 12 bins of 30 degrees."""
    draws = Draws("sprites_orientation", seed, index)
    direction = draws.below(NUM_DIRECTIONS)
    width = 360 // NUM_DIRECTIONS
    x = draws.between(14.0, SIDE - 14.0)
    return scene(draws, DIRECTED, x=x, degree=direction * width + draws.below(width), least=8.0), direction


def scene(draws: Draws, figures: tuple[Figure, ...], *, x: float, degree: int, least: float = 5.0) -> np.ndarray:
    """The figure at x, at any height, before clouds of two dark colors."""
    ground = paint(
        np.zeros((SIDE, SIDE, 3)) + random_color(draws, 0.0, 0.45), clouds(draws, 4), random_color(draws, 0.0, 0.45)
    )
    u, v = frame(x, draws.between(14.0, SIDE - 14.0), degree)
    figure = draws.pick(figures)(u, v, draws.between(least, least + 5.0))
    return as_bytes(noisy(paint(ground, mask(figure), random_color(draws, 0.45, 1.0)), draws, 0.04))
