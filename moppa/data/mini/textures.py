"""A dozen families of texture under any turn, scale, contrast and pair of colors: which family is it?"""

from collections.abc import Callable

import numpy as np

from moppa.data.mini.canvas import (
    CENTER,
    SIDE,
    X,
    Y,
    as_bytes,
    clouds,
    frame,
    mask,
    paint,
    random_color,
    soft_noise,
    wave,
)
from moppa.data.mini.canvas import with_noise as noisy
from moppa.data.mini.draws import Draws

Pattern = Callable[[np.ndarray, np.ndarray, Draws], np.ndarray]  # (u, v) in periods -> a mask from 0 to 1


def stripes(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Hard stripes of two widths."""
    return sharp(wave(u, 1.0) - draws.between(0.35, 0.65))


def rounded(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Soft waves."""
    return wave(u, 1.0) * (0.6 + 0.4 * wave(v, draws.between(4.0, 8.0)))


def checks(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """A chessboard, its fields not always square."""
    return sharp((wave(u, 1.0) - 0.5) * (wave(v, draws.between(0.8, 1.25)) - 0.5) * 4.0)


def dots(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Discs in rows."""
    return sharp(draws.between(0.25, 0.4) - np.sqrt(middle(u) * middle(u) + middle(v) * middle(v)))


def rings(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Circles around one point."""
    x, y = u - draws.between(-2.0, 2.0), v - draws.between(-2.0, 2.0)
    return sharp(wave(np.sqrt(x * x + y * y), 1.0) - 0.5)


def bricks(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """A wall in stretcher bond."""
    shifted = u * 0.5 + 0.5 * (np.floor(v) - 2.0 * np.floor(v * 0.5))
    joint = draws.between(0.06, 0.12)
    return sharp(np.minimum(0.5 - np.abs(middle(shifted)) - joint * 0.5, 0.5 - np.abs(middle(v)) - joint) * 2.0)


def zigzag(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Stripes with corners."""
    return sharp(wave(u + wave(v, draws.between(1.5, 2.5)) * 1.2, 1.0) - 0.5)


def waves(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Stripes that wind."""
    bend = wave(v, draws.between(2.0, 4.0))
    return sharp(wave(u + bend * bend * (3.0 - 2.0 * bend), 1.0) - 0.5)


def grid(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Thin lines both ways."""
    line = draws.between(0.12, 0.25)
    return sharp(np.maximum(np.abs(middle(u)), np.abs(middle(v))) - 0.5 + line)


def weave(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Bands over and under each other."""
    over = np.floor(u) + np.floor(v)
    is_over = over - 2.0 * np.floor(over * 0.5) < 0.5
    return np.where(is_over, wave(u + 0.5, 1.0), wave(v + 0.5, 1.0) * 0.8)


def scales(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Overlapping scales of a fish."""
    shifted = u + 0.5 * (np.floor(v) - 2.0 * np.floor(v * 0.5))
    across, along = middle(shifted), v - np.floor(v)
    return np.clip(1.2 * np.sqrt(across * across + along * along), 0.0, 1.0)


def blots(u: np.ndarray, v: np.ndarray, draws: Draws) -> np.ndarray:
    """Blots of no period."""
    return sharp((clouds(draws, 4 + draws.below(8)) - 0.5) * 4.0)


FAMILIES: tuple[Pattern, ...] = (
    stripes,
    rounded,
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
    """One of twelve families; its period is 6 to 16 pixels, its contrast from faint to strong."""
    draws = Draws("textures", seed, index)
    label = draws.below(len(FAMILIES))
    period = draws.between(6.0, 16.0)
    x, y = CENTER + draws.between(-8.0, 8.0), CENTER + draws.between(-8.0, 8.0)
    u, v = frame(x, y, draws.below(360))
    bend = (soft_noise(draws, 3) - 0.5) * draws.between(0.0, 1.2)
    pattern = FAMILIES[label](u / period + bend, v / period, draws)
    ground = np.asarray(random_color(draws, 0.1, 0.9))
    contrast = draws.between(0.25, 1.0)
    image = paint(np.zeros((SIDE, SIDE, 3)) + ground, pattern * contrast, random_color(draws))
    light = 0.8 + draws.between(-0.3, 0.3) * ((X - CENTER) / SIDE) + draws.between(-0.3, 0.3) * ((Y - CENTER) / SIDE)
    return as_bytes(noisy(image * light[..., None], draws, draws.between(0.02, 0.12))), label


def middle(position: np.ndarray) -> np.ndarray:
    """How far a position is from the middle of its period, -0.5 to 0.5."""
    return position - np.floor(position) - 0.5


def sharp(level: np.ndarray) -> np.ndarray:
    """A step at zero, softened over a fifth of a period."""
    return mask(-level * 5.0)
