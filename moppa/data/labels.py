"""Label rules of VTAB-1K: pure functions from one TFDS example to its class.

Source: Zhai et al., "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark",
arXiv 1910.04867, appendix A, and the task definitions of its public code.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Example = Mapping[str, Any]

CLEVR_DEPTHS = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
KITTI_DEPTHS = (-100.0, 8.0, 20.0, 999.0)
KITTI_VEHICLES = (0, 1, 2)  # Car, Van, Truck
KITTI_NO_VEHICLE = 1000.0


def field(example: Example, *, key: str) -> int:
    """The data set's own label, stored under `key`."""
    return int(example[key])


def clevr_count(example: Example) -> int:
    """How many objects, minus 3: scenes hold 3 to 10 of them, so 8 classes."""
    return len(example["objects"]["pixel_coords"]) - 3


def clevr_distance(example: Example) -> int:
    """The bin of the closest object's depth, 6 classes."""
    return largest_below(min(float(point[2]) for point in example["objects"]["pixel_coords"]), CLEVR_DEPTHS)


def kitti_distance(example: Example) -> int:
    """The bin of the closest car's, van's or truck's depth in meters; 4 classes, the last for no vehicle."""
    objects = example["objects"]
    depths = [
        float(place[2])
        for kind, place in zip(objects["type"], objects["location"], strict=True)
        if kind in KITTI_VEHICLES
    ]
    return largest_below(min(depths, default=KITTI_NO_VEHICLE), KITTI_DEPTHS)


def dsprites_location(example: Example) -> int:
    """The horizontal position, 32 values in 16 classes."""
    return int(example["label_x_position"]) // 2


def dsprites_orientation(example: Example) -> int:
    """The orientation, 40 values in 16 classes."""
    return int(np.floor(int(example["label_orientation"]) / 2.5))


def largest_below(value: float, edges: Sequence[float]) -> int:
    """The largest index whose edge is below `value`; a value on an edge falls into the bin under it."""
    return int(np.searchsorted(edges, value, side="left")) - 1
