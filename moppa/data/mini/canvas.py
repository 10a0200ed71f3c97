"""Draws on a square of 64 pixels: shapes given by their distance, soft noise, blur, and rounding to bytes.

An unfinished image is float64 (64, 64, 3) in [0, 1]; a mask is (64, 64). x points right and y points down.
"""

import math

import numpy as np

from moppa.data.mini.draws import Draws

SIDE = 64
CENTER = (SIDE - 1) / 2
UNIT = 1 << 16
SINES = [round(UNIT * math.sin(math.radians(degree))) for degree in range(360)]  # no value is close to a half
Y, X = (axis.astype(np.float64) for axis in np.mgrid[0:SIDE, 0:SIDE])

Color = tuple[float, float, float]


def rotation(degree: int) -> tuple[float, float]:
    """Returns cosine and sine of an integer number of degrees, from the table."""
    return SINES[(degree + 90) % 360] / UNIT, SINES[degree % 360] / UNIT


def local_axes(x: float, y: float, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels' coordinates (u, v) along axes with their origin at (x, y), rotated by `degree`."""
    cosine, sine = rotation(degree)
    return (X - x) * cosine + (Y - y) * sine, (Y - y) * cosine - (X - x) * sine


def mask(distance: np.ndarray) -> np.ndarray:
    """Returns 1 inside, 0 outside, and a value between on the pixels of the edge. `distance` is negative inside."""
    return np.clip(0.5 - distance, 0.0, 1.0)


def disc(u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """Returns the distance to the edge of a disc."""
    return np.sqrt(u * u + v * v) - radius


def ellipse(u: np.ndarray, v: np.ndarray, u_radius: float, v_radius: float) -> np.ndarray:
    """Returns the distance to the edge of an ellipse, exact on its shorter axis."""
    return (np.sqrt((u / u_radius) * (u / u_radius) + (v / v_radius) * (v / v_radius)) - 1.0) * min(u_radius, v_radius)


def box(u: np.ndarray, v: np.ndarray, u_radius: float, v_radius: float) -> np.ndarray:
    """Returns the distance to the edge of a rectangle with these half sides."""
    return np.maximum(np.abs(u) - u_radius, np.abs(v) - v_radius)


def triangle(u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """Returns the distance to the edge of a regular triangle that points along u; `radius` is its inner radius."""
    slope = np.abs(v) * 0.8660254037844386
    return np.maximum(-u, u * 0.5 + slope) - radius


def paint(image: np.ndarray, opacity: np.ndarray, color: np.ndarray | Color) -> np.ndarray:
    """Returns the image blended with a color or another image, which covers it where `opacity` is 1."""
    weight = opacity[..., None]
    return image * (1.0 - weight) + np.asarray(color) * weight


def soft_noise(draws: Draws, num_cells: int) -> np.ndarray:
    """Returns a smooth random field (64, 64) in [0, 1], interpolated between `num_cells` x `num_cells` values."""
    lattice = draws.uniform(num_cells + 1, num_cells + 1)
    position = np.arange(SIDE) * (num_cells / SIDE)
    low = position.astype(np.int64)
    share = position - low
    share = share * share * (3.0 - 2.0 * share)
    rows = lattice[low] * (1.0 - share)[:, None] + lattice[low + 1] * share[:, None]
    return rows[:, low] * (1.0 - share) + rows[:, low + 1] * share


def clouds(draws: Draws, num_cells: int) -> np.ndarray:
    """Returns three octaves of soft noise in [0, 1]."""
    octaves = [soft_noise(draws, num_cells << octave) for octave in range(3)]
    return octaves[0] * 0.5 + octaves[1] * 0.3 + octaves[2] * 0.2


def random_color(draws: Draws, low: float = 0.0, high: float = 1.0) -> Color:
    """Returns a color whose channels are between `low` and `high`."""
    return draws.between(low, high), draws.between(low, high), draws.between(low, high)


def wave(position: np.ndarray, period: float) -> np.ndarray:
    """Returns a triangle wave in [0, 1]."""
    phase = position / period
    return np.abs((phase - np.floor(phase)) * 2.0 - 1.0)


def blur(image: np.ndarray, num_passes: int) -> np.ndarray:
    """Returns the mean over three pixels in both directions, repeated; the border repeats its last pixel."""
    for _ in range(num_passes):
        for axis in (0, 1):
            padded = np.concatenate([image.take([0], axis), image, image.take([-1], axis)], axis)
            before, after = (np.moveaxis(padded, axis, 0)[pixels] for pixels in (slice(None, -2), slice(2, None)))
            image = (np.moveaxis(before, 0, axis) + image + np.moveaxis(after, 0, axis)) / 3.0
    return image


def add_noise(image: np.ndarray, draws: Draws, std: float) -> np.ndarray:
    """Returns the image plus independent noise of standard deviation `std` on every channel."""
    return image + draws.normal(*image.shape) * std


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Returns the image as uint8 (64, 64, 3), rounded half up."""
    return np.floor(np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
