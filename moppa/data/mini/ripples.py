"""Draws circular waves around one point on a cloudy background: where do they come from?

The crests are faint, fade with the distance, and are lighter or darker than the background in each channel. So neither
brightness nor color shows the source: the shape of the crests does, which cover many patches of a vision transformer.
"""

import numpy as np

from moppa.data.mini.canvas import SIDE, add_noise, clouds, local_axes, random_color, to_bytes, wave
from moppa.data.mini.draws import Draws

NUM_LOCATIONS = 16
MARGIN = 8  # pixels at each side of the image without a source


def location(seed: int, index: int) -> tuple[np.ndarray, int]:
    """Draws waves with a period of 5 to 9 pixels. The class is the x coordinate of their source, 16 bins of 3 px."""
    draws = Draws("ripples_location", seed, index)
    label = draws.below(NUM_LOCATIONS)
    width = (SIDE - 2 * MARGIN) / NUM_LOCATIONS
    x = MARGIN + (label + draws.between(0.0, 1.0)) * width
    u, v = local_axes(x, draws.between(MARGIN, SIDE - MARGIN), 0)
    squared = u * u + v * v
    period, reach = draws.between(5.0, 9.0), draws.between(14.0, 22.0)
    crests = wave(np.sqrt(squared) + draws.between(0.0, period), period) - 0.5
    heights = crests / (1.0 + squared / (reach * reach)) * draws.between(0.4, 0.65)
    light = np.asarray([draws.between(0.5, 1.0) * draws.pick((-1.0, 1.0)) for _ in range(3)])
    background = np.asarray(random_color(draws, 0.3, 0.7)) + (clouds(draws, 4) * 0.5 - 0.25)[..., None]
    image = background + heights[..., None] * light
    return to_bytes(add_noise(image, draws, draws.between(0.05, 0.1))), label
