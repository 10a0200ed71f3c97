"""Draws twelve families of texture with any rotation, scale, contrast and pair of colors: which family is it?"""

from collections.abc import Callable

import numpy as np

from moppa.data.mini.canvas import (
    CENTER,
    SIDE,
    X,
    Y,
    add_noise,
    clouds,
    local_axes,
    mask,
    paint,
    random_color,
    soft_noise,
    to_bytes,
    wave,
)
from moppa.data.mini.draws import Draws

Pattern = Callable[[np.ndarray, np.ndarray, Draws], np.ndarray]  # (u, v) in periods -> a mask in [0, 1]


def stripes(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Draws hard stripes of two widths."""
    return sharp(wave(u, 1.0) - draws.between(0.35, 0.65))


def ripples(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Draws soft waves."""
    return wave(u, 1.0) * (0.6 + 0.4 * wave(v, draws.between(4.0, 8.0)))


def checks(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Draws a chessboard whose fields need not be square."""
    return sharp((wave(u, 1.0) - 0.5) * (wave(v, draws.between(0.8, 1.25)) - 0.5) * 4.0)


def dots(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Draws discs in rows."""
    return sharp(draws.between(0.25, 0.4) - np.sqrt(centered(u) * centered(u) + centered(v) * centered(v)))


def rings(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Draws circles around one point."""
    x, y = u - draws.between(-2.0, 2.0), v - draws.between(-2.0, 2.0)
    return sharp(wave(np.sqrt(x * x + y * y), 1.0) - 0.5)


def bricks(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Draws a brick wall in stretcher bond."""
    shifted = u * 0.5 + 0.5 * (np.floor(v) - 2.0 * np.floor(v * 0.5))
    joint = draws.between(0.06, 0.12)
    return sharp(np.minimum(0.5 - np.abs(centered(shifted)) - joint * 0.5, 0.5 - np.abs(centered(v)) - joint) * 2.0)


def zigzag(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Draws stripes with corners."""
    return sharp(wave(u + wave(v, draws.between(1.5, 2.5)) * 1.2, 1.0) - 0.5)


def waves(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Draws winding stripes."""
    bend = wave(v, draws.between(2.0, 4.0))
    return sharp(wave(u + bend * bend * (3.0 - 2.0 * bend), 1.0) - 0.5)


def grid(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Draws thin lines in both directions."""
    width = draws.between(0.12, 0.25)
    return sharp(np.maximum(np.abs(centered(u)), np.abs(centered(v))) - 0.5 + width)


def weave(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Draws bands over and under each other."""
    square = np.floor(u) + np.floor(v)
    is_over = square - 2.0 * np.floor(square * 0.5) < 0.5
    return np.where(is_over, wave(u + 0.5, 1.0), wave(v + 0.5, 1.0) * 0.8)


def scales(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Draws overlapping fish scales."""
    shifted = u + 0.5 * (np.floor(v) - 2.0 * np.floor(v * 0.5))
    across, along = centered(shifted), v - np.floor(v)
    return np.clip(1.2 * np.sqrt(across * across + along * along), 0.0, 1.0)


def blots(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Draws blots without a period."""
    return sharp((clouds(draws, 4 + draws.below(8)) - 0.5) * 4.0)


FAMILIES: tuple[Pattern, ...] = (
    stripes,
    ripples,
    checks,
    dots,
    rings,
    bricks,
    zigzag,
    waves,
    grid,
    weave,
    scales,
    blots,
)


def family(seed: int, index: int) -> tuple[np.ndarray, int]:
    """Draws one of twelve families with a period of 6 to 16 pixels and any contrast. The class is the family."""
    draws = Draws("textures", seed, index)
    label = draws.below(len(FAMILIES))
    period = draws.between(6.0, 16.0)
    x, y = CENTER + draws.between(-8.0, 8.0), CENTER + draws.between(-8.0, 8.0)
    u, v = local_axes(x, y, draws.below(360))
    bend = (soft_noise(draws, 3) - 0.5) * draws.between(0.0, 1.2)
    pattern = FAMILIES[label](u / period + bend, v / period, draws)
    background = np.asarray(random_color(draws, 0.1, 0.9))
    contrast = draws.between(0.25, 1.0)
    image = paint(np.zeros((SIDE, SIDE, 3)) + background, pattern * contrast, random_color(draws))
    light = 0.8 + draws.between(-0.3, 0.3) * ((X - CENTER) / SIDE) + draws.between(-0.3, 0.3) * ((Y - CENTER) / SIDE)
    return to_bytes(add_noise(image * light[..., None], draws, draws.between(0.02, 0.12))), label


def centered(position: np.ndarray) -> np.ndarray:
    """Returns the signed distance of a position from the middle of its period, -0.5 to 0.5."""
    return position - np.floor(position) - 0.5


def sharp(level: np.ndarray) -> np.ndarray:
    """Returns a step at zero, softened over a fifth of a period."""
    return mask(-level * 5.0)
