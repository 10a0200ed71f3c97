"""Colored things on a floor that recedes: how many are there, and how far is the nearest?

The questions are CLEVR's (Johnson et al. 2017) as VTAB asks them; the images are ours: flat figures with a shade and a
shadow, smaller and higher in the image the farther they stand.
"""

import numpy as np

from moppa.data.mini.canvas import (
    SIDE,
    Y,
    as_bytes,
    box,
    disc,
    ellipse,
    frame,
    mask,
    paint,
    random_color,
    soft_noise,
    triangle,
)
from moppa.data.mini.canvas import with_noise as noisy
from moppa.data.mini.draws import Draws

FEWEST = 2
NUM_COUNTS = 8
NUM_DEPTHS = 6
HORIZON = 12.0  # pixels from the top
NEAREST = 2.0  # the floor's unit of length


def count(seed: int, index: int) -> tuple[np.ndarray, int]:
    """Things side by side on the floor; the class is how many there are, 2 to 9."""
    draws = Draws("shapes_count", seed, index)
    label = draws.below(NUM_COUNTS)
    places: list[tuple[float, float]] = []
    while len(places) < FEWEST + label:
        place = (draws.between(6.0, SIDE - 6.0), draws.between(3.4, 9.0))
        if all(apart(place, other) for other in places) or draws.below(40) == 0:
            places.append(place)
    image = floor(draws)
    for x, depth in sorted(places, key=lambda place: -place[1]):
        image = stand(image, draws, x=x, depth=depth, size=draws.between(13.0, 22.0))
    return as_bytes(noisy(image, draws, 0.03)), label


def distance(seed: int, index: int) -> tuple[np.ndarray, int]:
    """One to four things, large and small; the class is the depth of the nearest, one of 6 bins of 1 unit."""
    draws = Draws("shapes_distance", seed, index)
    label = draws.below(NUM_DEPTHS)
    nearest = NEAREST + label + draws.between(0.0, 1.0)
    depths = [nearest] + [draws.between(nearest, NEAREST + NUM_DEPTHS + 2.0) for _ in range(draws.below(4))]
    image = floor(draws)
    for depth in sorted(depths, reverse=True):
        image = stand(image, draws, x=draws.between(8.0, SIDE - 8.0), depth=depth, size=draws.between(12.0, 26.0))
    return as_bytes(noisy(image, draws, 0.03)), label


def ground_at(depth: float) -> float:
    """The height in the image, in pixels, at which a thing of this depth stands."""
    return HORIZON + 90.0 / depth


def apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two things do not hide each other by much."""
    x, y = one[0] - other[0], ground_at(one[1]) - ground_at(other[1])
    return x * x + y * y > 49.0


def floor(draws: Draws) -> np.ndarray:
    """A floor of one color that darkens with depth, below a wall of another, under an uneven light."""
    wall, near = random_color(draws, 0.35, 0.75), random_color(draws, 0.35, 0.75)
    shade = 0.7 + 0.3 * np.clip((Y - HORIZON) / (SIDE - HORIZON), 0.0, 1.0)
    image = np.where((Y < HORIZON)[..., None], np.asarray(wall), np.asarray(near) * shade[..., None])
    return image * (0.8 + 0.4 * soft_noise(draws, 3))[..., None]


def stand(image: np.ndarray, draws: Draws, *, x: float, depth: float, size: float) -> np.ndarray:
    """The image with one more thing of any kind and color, `size` / `depth` pixels in half its height."""
    radius = size / depth
    foot = ground_at(depth)
    u, v = frame(x, foot - radius * 0.9, 0)
    kind = draws.below(3)
    if kind == 0:
        figure = disc(u, v, radius)
    elif kind == 1:
        figure = box(u, v, radius * 0.85, radius * 0.85)
    else:
        figure = triangle(-v, u, radius * 0.6)
    shadow = ellipse(u - radius * 0.5, v - radius * 0.9, radius * 1.2, radius * 0.35)
    shaded = paint(image, mask(shadow) * 0.5, (0.0, 0.0, 0.0))
    light = np.clip(1.0 - (u + v) / radius * 0.25, 0.4, 1.4)[..., None]
    return paint(shaded, mask(figure), np.asarray(random_color(draws, 0.1, 0.95)) * light)
