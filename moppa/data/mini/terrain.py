"""Land seen from above, ten kinds of cover, in any season's light: which is it?

The question is EuroSAT's (Helber et al. 2019); the images are ours.
"""

from collections.abc import Callable

import numpy as np

from moppa.data.mini.canvas import SIDE, as_bytes, blur, box, clouds, disc, frame, mask, paint, soft_noise, wave
from moppa.data.mini.canvas import with_noise as noisy
from moppa.data.mini.draws import Draws

GREEN, SOIL, SAND = (0.25, 0.38, 0.2), (0.45, 0.38, 0.28), (0.66, 0.58, 0.43)
WATER, ROAD, ROOF = (0.16, 0.25, 0.35), (0.5, 0.5, 0.5), (0.62, 0.55, 0.52)

Cover = Callable[[Draws], np.ndarray]


def plain(color: tuple[float, float, float], field: np.ndarray, depth: float) -> np.ndarray:
    """One color, brighter and darker with a field from 0 to 1."""
    return np.asarray(color) * (1.0 - depth + 2.0 * depth * field)[..., None]


def forest(draws: Draws) -> np.ndarray:
    """Crowns of trees."""
    return plain(GREEN, clouds(draws, 16) * 0.7 + soft_noise(draws, 3) * 0.3, 0.7)


def pasture(draws: Draws) -> np.ndarray:
    """Even grass or bare soil."""
    return plain(draws.pick((GREEN, SOIL)), soft_noise(draws, 4), 0.25)


def crops(draws: Draws) -> np.ndarray:
    """Fields with furrows, each its own way and color."""
    image = plain(SOIL, soft_noise(draws, 4), 0.2)
    for _ in range(3 + draws.below(3)):
        u, v = frame(draws.between(0.0, SIDE), draws.between(0.0, SIDE), draws.below(4) * 45 + draws.below(15))
        field = mask(box(u, v, draws.between(12.0, 30.0), draws.between(10.0, 22.0)))
        furrows = 0.85 + 0.3 * wave(v, draws.between(2.5, 5.0))
        image = paint(image, field, np.asarray(draws.pick((GREEN, SOIL, SAND))) * furrows[..., None])
    return image


def orchard(draws: Draws) -> np.ndarray:
    """Trees in rows."""
    u, v = frame(32.0, 32.0, draws.below(90))
    gap = draws.between(5.0, 8.0)
    across, along = (wave(axis, gap) * gap * 0.5 for axis in (u, v))
    return paint(
        plain(draws.pick((SOIL, GREEN)), soft_noise(draws, 4), 0.25),
        mask(disc(across, along, gap * 0.3)),
        (0.15, 0.27, 0.12),
    )


def dunes(draws: Draws) -> np.ndarray:
    """Ridges of sand."""
    u, _ = frame(32.0, 32.0, draws.below(360))
    return plain(draws.pick((SAND, SOIL)), wave(u + 14.0 * soft_noise(draws, 3), draws.between(9.0, 16.0)), 0.2)


def sea(draws: Draws) -> np.ndarray:
    """Open water."""
    return plain(draws.pick((WATER, GREEN)), soft_noise(draws, 2) * 0.8 + clouds(draws, 16) * 0.2, 0.25)


def river(draws: Draws) -> np.ndarray:
    """Water that winds through land."""
    return band(draws, draws.pick((WATER, SOIL)), width=draws.between(3.0, 7.0), bend=22.0)


def road(draws: Draws) -> np.ndarray:
    """A straight road through land."""
    return band(draws, draws.pick((ROAD, SAND)), width=draws.between(1.5, 3.5), bend=5.0)


def band(draws: Draws, color: tuple[float, float, float], *, width: float, bend: float) -> np.ndarray:
    """A band across land."""
    u, _ = frame(draws.between(20.0, 44.0), draws.between(20.0, 44.0), draws.below(360))
    course = u + bend * (soft_noise(draws, 2) - 0.5)
    land = draws.pick((forest, pasture, crops))(draws)
    return paint(land, mask(np.abs(course) - width), plain(color, soft_noise(draws, 8), 0.15))


def houses(draws: Draws) -> np.ndarray:
    """Small roofs along streets."""
    return built(draws, block=draws.between(8.0, 11.0), share=0.32)


def works(draws: Draws) -> np.ndarray:
    """Large roofs."""
    return built(draws, block=draws.between(17.0, 26.0), share=0.38)


def built(draws: Draws, *, block: float, share: float) -> np.ndarray:
    """Roofs of many shades in blocks between streets."""
    u, v = frame(draws.between(0.0, SIDE), draws.between(0.0, SIDE), draws.below(90))
    column, row = np.floor(u / block), np.floor(v / block)
    shades = draws.many(256)
    shade = shades[((column * 37.0 + row * 101.0).astype(np.int64)) % 256]
    inside = box(
        (u / block - column - 0.5) * block, (v / block - row - 0.5) * block, block * share, block * share * 0.85
    )
    roofs = np.asarray(ROOF) * (0.6 + 0.8 * shade)[..., None]
    ground = plain(draws.pick((ROAD, GREEN, SOIL)), clouds(draws, 8), 0.35)
    return paint(ground, mask(inside) * np.where(shade > 0.15, 1.0, 0.0), roofs)


COVERS: tuple[Cover, ...] = (forest, pasture, crops, orchard, dunes, sea, river, road, houses, works)


def cover(seed: int, index: int) -> tuple[np.ndarray, int]:
    """One of ten kinds of cover under a tint, a haze, a blur and noise."""
    draws = Draws("terrain", seed, index)
    label = draws.below(len(COVERS))
    image = blur(COVERS[label](draws), draws.below(3))
    tint = np.asarray([draws.between(0.7, 1.3) for _ in range(3)])
    haze = draws.between(0.0, 0.45)
    hazy = image * tint * (1.0 - haze) + draws.between(0.4, 0.8) * haze
    return as_bytes(noisy(hazy, draws, draws.between(0.02, 0.09))), label
