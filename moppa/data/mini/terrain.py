"""Draws land seen from above: which of ten kinds of land cover is it, in any season's light?

The question is that of EuroSAT (Helber et al. 2019); the images are ours.
"""

from collections.abc import Callable

import numpy as np

from moppa.data.mini.canvas import (
    SIDE,
    Color,
    add_noise,
    blur,
    box,
    clouds,
    disc,
    local_axes,
    mask,
    paint,
    soft_noise,
    to_bytes,
    wave,
)
from moppa.data.mini.draws import Draws

GREEN, SOIL, SAND = (0.25, 0.38, 0.2), (0.45, 0.38, 0.28), (0.66, 0.58, 0.43)
WATER, ROAD, ROOF = (0.16, 0.25, 0.35), (0.5, 0.5, 0.5), (0.62, 0.55, 0.52)

Cover = Callable[[Draws], np.ndarray]


def shade(color: Color, field: np.ndarray, strength: float) -> np.ndarray:
    """Returns one color, made brighter and darker by a field in [0, 1]."""
    return np.asarray(color) * (1.0 - strength + 2.0 * strength * field)[..., None]


def forest(draws: Draws) -> np.ndarray:
    """Draws the crowns of trees."""
    return shade(GREEN, clouds(draws, 16) * 0.7 + soft_noise(draws, 3) * 0.3, 0.7)


def pasture(draws: Draws) -> np.ndarray:
    """Draws even grass or bare soil."""
    return shade(draws.pick((GREEN, SOIL)), soft_noise(draws, 4), 0.25)


def crops(draws: Draws) -> np.ndarray:
    """Draws fields with furrows of different directions and colors."""
    image = shade(SOIL, soft_noise(draws, 4), 0.2)
    for _ in range(3 + draws.below(3)):
        u, v = local_axes(draws.between(0.0, SIDE), draws.between(0.0, SIDE), draws.below(4) * 45 + draws.below(15))
        field = mask(box(u, v, draws.between(12.0, 30.0), draws.between(10.0, 22.0)))
        furrows = 0.85 + 0.3 * wave(v, draws.between(2.5, 5.0))
        image = paint(image, field, np.asarray(draws.pick((GREEN, SOIL, SAND))) * furrows[..., None])
    return image


def orchard(draws: Draws) -> np.ndarray:
    """Draws trees in rows."""
    u, v = local_axes(32.0, 32.0, draws.below(90))
    gap = draws.between(5.0, 8.0)
    tree_u, tree_v = (wave(axis, gap) * gap * 0.5 for axis in (u, v))
    ground = shade(draws.pick((SOIL, GREEN)), soft_noise(draws, 4), 0.25)
    return paint(ground, mask(disc(tree_u, tree_v, gap * 0.3)), (0.15, 0.27, 0.12))


def dunes(draws: Draws) -> np.ndarray:
    """Draws ridges of sand."""
    u, _ = local_axes(32.0, 32.0, draws.below(360))
    return shade(draws.pick((SAND, SOIL)), wave(u + 14.0 * soft_noise(draws, 3), draws.between(9.0, 16.0)), 0.2)


def sea(draws: Draws) -> np.ndarray:
    """Draws open water."""
    return shade(draws.pick((WATER, GREEN)), soft_noise(draws, 2) * 0.8 + clouds(draws, 16) * 0.2, 0.25)


def river(draws: Draws) -> np.ndarray:
    """Draws a winding river through land."""
    return band(draws, draws.pick((WATER, SOIL)), width=draws.between(3.0, 7.0), bend=22.0)


def road(draws: Draws) -> np.ndarray:
    """Draws a straight road through land."""
    return band(draws, draws.pick((ROAD, SAND)), width=draws.between(1.5, 3.5), bend=5.0)


def band(draws: Draws, color: Color, *, width: float, bend: float) -> np.ndarray:
    """Draws a band across land."""
    u, _ = local_axes(draws.between(20.0, 44.0), draws.between(20.0, 44.0), draws.below(360))
    course = u + bend * (soft_noise(draws, 2) - 0.5)
    land = draws.pick((forest, pasture, crops))(draws)
    return paint(land, mask(np.abs(course) - width), shade(color, soft_noise(draws, 8), 0.15))


def houses(draws: Draws) -> np.ndarray:
    """Draws small roofs along streets."""
    return roofs(draws, block_size=draws.between(8.0, 11.0), roof_share=0.32)


def works(draws: Draws) -> np.ndarray:
    """Draws the large roofs of an industrial area."""
    return roofs(draws, block_size=draws.between(17.0, 26.0), roof_share=0.38)


def roofs(draws: Draws, *, block_size: float, roof_share: float) -> np.ndarray:
    """Draws roofs of many shades in blocks between streets."""
    u, v = local_axes(draws.between(0.0, SIDE), draws.between(0.0, SIDE), draws.below(90))
    column, row = np.floor(u / block_size), np.floor(v / block_size)
    brightnesses = draws.uniform(256)
    brightness = brightnesses[((column * 37.0 + row * 101.0).astype(np.int64)) % 256]
    roof = box(
        (u / block_size - column - 0.5) * block_size,
        (v / block_size - row - 0.5) * block_size,
        block_size * roof_share,
        block_size * roof_share * 0.85,
    )
    color = np.asarray(ROOF) * (0.6 + 0.8 * brightness)[..., None]
    ground = shade(draws.pick((ROAD, GREEN, SOIL)), clouds(draws, 8), 0.35)
    return paint(ground, mask(roof) * np.where(brightness > 0.15, 1.0, 0.0), color)


COVERS: tuple[Cover, ...] = (forest, pasture, crops, orchard, dunes, sea, river, road, houses, works)


def cover(seed: int, index: int) -> tuple[np.ndarray, int]:
    """Draws one of ten kinds of land cover under a tint, haze, blur and noise. The class is the kind."""
    draws = Draws("terrain", seed, index)
    label = draws.below(len(COVERS))
    image = blur(COVERS[label](draws), draws.below(3))
    tint = np.asarray([draws.between(0.7, 1.3) for _ in range(3)])
    haze = draws.between(0.0, 0.45)
    hazy = image * tint * (1.0 - haze) + draws.between(0.4, 0.8) * haze
    return to_bytes(add_noise(hazy, draws, draws.between(0.02, 0.09))), label
