"""A square of 64 pixels and what is drawn on it: shapes by their distance, soft noise, blur, and rounding to bytes.

An image in the making is float64 (64, 64, 3) from 0 to 1; a mask is (64, 64); x grows to the right and y downwards.
"""

import math

import numpy as np

from moppa.data.mini.draws import Draws

SIDE = 64
CENTER = (SIDE - 1) / 2
UNIT = 1 << 16
SINES = [round(UNIT * math.sin(math.radians(degree))) for degree in range(360)]  # none lies near a half
Y, X = (axis.astype(np.float64) for axis in np.mgrid[0:SIDE, 0:SIDE])

Color = tuple[float, float, float]


def rotation(degree: int) -> tuple[float, float]:
    """Cosine and sine of a whole degree, from the table."""
    return SINES[(degree + 90) % 360] / UNIT, SINES[degree % 360] / UNIT


def frame(x: float, y: float, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels' coordinates (u, v) along the axes of something that lies at (x, y), turned by `degree`."""
    cosine, sine = rotation(degree)
    return (X - x) * cosine + (Y - y) * sine, (Y - y) * cosine - (X - x) * sine


def mask(distance: np.ndarray) -> np.ndarray:
    """1 inside, 0 outside and between them on the pixel that the edge crosses; `distance` is negative inside."""
    return np.clip(0.5 - distance, 0.0, 1.0)


def disc(u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """The distance to a disc's edge."""
    return np.sqrt(u * u + v * v) - radius


def ellipse(u: np.ndarray, v: np.ndarray, along: float, across: float) -> np.ndarray:
    """The distance to an ellipse's edge, exact on its shorter axis."""
    return (np.sqrt((u / along) * (u / along) + (v / across) * (v / across)) - 1.0) * min(along, across)


def box(u: np.ndarray, v: np.ndarray, along: float, across: float) -> np.ndarray:
    """The distance to a rectangle of these half sides."""
    return np.maximum(np.abs(u) - along, np.abs(v) - across)


def triangle(u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """The distance to a regular triangle that points along u; `radius` is that of the circle within."""
    slope = np.abs(v) * 0.8660254037844386
    return np.maximum(-u, u * 0.5 + slope) - radius


def paint(image: np.ndarray, cover: np.ndarray, color: np.ndarray | Color) -> np.ndarray:
    """The image with a color, or another image, laid over it where `cover` is 1."""
    weight = cover[..., None]
    return image * (1.0 - weight) + np.asarray(color) * weight


def soft_noise(draws: Draws, cells: int) -> np.ndarray:
    """A smooth random field (64, 64) from 0 to 1: `cells` x `cells` random values, blended smoothly between."""
    lattice = draws.many(cells + 1, cells + 1)
    position = np.arange(SIDE) * (cells / SIDE)
    low = position.astype(np.int64)
    share = position - low
    share = share * share * (3.0 - 2.0 * share)
    rows = lattice[low] * (1.0 - share)[:, None] + lattice[low + 1] * share[:, None]
    return rows[:, low] * (1.0 - share) + rows[:, low + 1] * share


def clouds(draws: Draws, cells: int) -> np.ndarray:
    """Three octaves of soft noise, from 0 to 1."""
    octaves = [soft_noise(draws, cells << octave) for octave in range(3)]
    return octaves[0] * 0.5 + octaves[1] * 0.3 + octaves[2] * 0.2


def random_color(draws: Draws, low: float = 0.0, high: float = 1.0) -> Color:
    """Any color between two brightnesses."""
    return draws.between(low, high), draws.between(low, high), draws.between(low, high)


def wave(position: np.ndarray, period: float) -> np.ndarray:
    """A triangle wave from 0 to 1."""
    phase = position / period
    return np.abs((phase - np.floor(phase)) * 2.0 - 1.0)


def blur(image: np.ndarray, times: int) -> np.ndarray:
    """The mean over three pixels in both directions, repeated; the border repeats its last pixel."""
    for _ in range(times):
        for axis in (0, 1):
            padded = np.concatenate([image.take([0], axis), image, image.take([-1], axis)], axis)
            left, right = (np.moveaxis(padded, axis, 0)[part] for part in (slice(None, -2), slice(2, None)))
            image = (np.moveaxis(left, 0, axis) + image + np.moveaxis(right, 0, axis)) / 3.0
    return image


def with_noise(image: np.ndarray, draws: Draws, strength: float) -> np.ndarray:
    """The image with independent noise of this standard deviation on every channel."""
    return image + draws.bells(*image.shape) * strength


def as_bytes(image: np.ndarray) -> np.ndarray:
    """uint8 (64, 64, 3), rounded half up."""
    return np.floor(np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
