"""Draws colored shapes on a floor: how many are there, and how far away is the nearest?

The questions are those of CLEVR (Johnson et al. 2017) in VTAB. The images are ours: flat shapes with shading and a
shadow, smaller and higher in the image the farther away they are.
"""

import numpy as np

from moppa.data.mini.canvas import (
    SIDE,
    Y,
    add_noise,
    box,
    disc,
    ellipse,
    local_axes,
    mask,
    paint,
    random_color,
    soft_noise,
    to_bytes,
    triangle,
)
from moppa.data.mini.draws import Draws

MIN_COUNT = 2
NUM_COUNTS = 8
NUM_DEPTHS = 6
HORIZON = 12.0  # pixels from the top
MIN_DEPTH = 2.0  # in units of the floor


def count(seed: int, index: int) -> tuple[np.ndarray, int]:
    """Draws shapes side by side on the floor. The class is their number, 2 to 9."""
    draws = Draws("shapes_count", seed, index)
    label = draws.below(NUM_COUNTS)
    positions: list[tuple[float, float]] = []  # x and depth
    while len(positions) < MIN_COUNT + label:
        position = (draws.between(6.0, SIDE - 6.0), draws.between(3.4, 9.0))
        if all(are_apart(position, other) for other in positions) or draws.below(40) == 0:
            positions.append(position)
    image = floor(draws)
    for x, depth in sorted(positions, key=lambda position: -position[1]):
        image = add_shape(image, draws, x=x, depth=depth, size=draws.between(13.0, 22.0))
    return to_bytes(add_noise(image, draws, 0.03)), label


def distance(seed: int, index: int) -> tuple[np.ndarray, int]:
    """Draws one to four large and small shapes. The class is the depth of the nearest, one of 6 bins of 1 unit."""
    draws = Draws("shapes_distance", seed, index)
    label = draws.below(NUM_DEPTHS)
    nearest = MIN_DEPTH + label + draws.between(0.0, 1.0)
    depths = [nearest] + [draws.between(nearest, MIN_DEPTH + NUM_DEPTHS + 2.0) for _ in range(draws.below(4))]
    image = floor(draws)
    for depth in sorted(depths, reverse=True):
        image = add_shape(image, draws, x=draws.between(8.0, SIDE - 8.0), depth=depth, size=draws.between(12.0, 26.0))
    return to_bytes(add_noise(image, draws, 0.03)), label


def ground_y(depth: float) -> float:
    """Returns the y coordinate, in pixels, at which a shape of this depth stands."""
    return HORIZON + 90.0 / depth


def are_apart(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Returns whether two shapes at (x, depth) hide little of each other."""
    dx, dy = first[0] - second[0], ground_y(first[1]) - ground_y(second[1])
    return dx * dx + dy * dy > 49.0


def floor(draws: Draws) -> np.ndarray:
    """Draws a floor that darkens with depth, below a wall of another color, in uneven light."""
    wall, near = random_color(draws, 0.35, 0.75), random_color(draws, 0.35, 0.75)
    shade = 0.7 + 0.3 * np.clip((Y - HORIZON) / (SIDE - HORIZON), 0.0, 1.0)
    image = np.where((Y < HORIZON)[..., None], np.asarray(wall), np.asarray(near) * shade[..., None])
    return image * (0.8 + 0.4 * soft_noise(draws, 3))[..., None]


def add_shape(image: np.ndarray, draws: Draws, *, x: float, depth: float, size: float) -> np.ndarray:
    """Returns the image with one more shape of any kind and color; half its height is `size` / `depth` pixels."""
    radius = size / depth
    foot = ground_y(depth)
    u, v = local_axes(x, foot - radius * 0.9, 0)
    kind = draws.below(3)
    if kind == 0:
        shape = disc(u, v, radius)
    elif kind == 1:
        shape = box(u, v, radius * 0.85, radius * 0.85)
    else:
        shape = triangle(-v, u, radius * 0.6)
    shadow = ellipse(u - radius * 0.5, v - radius * 0.9, radius * 1.2, radius * 0.35)
    shaded = paint(image, mask(shadow) * 0.5, (0.0, 0.0, 0.0))
    light = np.clip(1.0 - (u + v) / radius * 0.25, 0.4, 1.4)[..., None]
    return paint(shaded, mask(shape), np.asarray(random_color(draws, 0.1, 0.95)) * light)
