"""Label functions of VTAB-1K: each maps one TFDS example to its class.

Source: Zhai et al., "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark",
arXiv 1910.04867, and the task definitions in its public code.
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
    """Returns the label that the data set stores under `key`."""
    return int(example[key])


def clevr_count(example: Example) -> int:
    """Returns the number of objects minus 3. Scenes hold 3 to 10 objects, which gives 8 classes."""
    return len(example["objects"]["pixel_coords"]) - 3


def clevr_distance(example: Example) -> int:
    """Returns the depth bin of the closest object, one of 6 classes."""
    return largest_index_below(min(float(point[2]) for point in example["objects"]["pixel_coords"]), CLEVR_DEPTHS)


def kitti_distance(example: Example) -> int:
    """Returns the bin of the depth in meters of the closest car, van or truck; the last of 4 classes means none."""
    objects = example["objects"]
    depths = [
        float(location[2])
        for kind, location in zip(objects["type"], objects["location"], strict=True)
        if kind in KITTI_VEHICLES
    ]
    return largest_index_below(min(depths, default=KITTI_NO_VEHICLE), KITTI_DEPTHS)


def dsprites_location(example: Example) -> int:
    """Returns the horizontal position, 32 values in 16 classes."""
    return int(example["label_x_position"]) // 2


def dsprites_orientation(example: Example) -> int:
    """Returns the orientation, 40 values in 16 classes."""
    return int(np.floor(int(example["label_orientation"]) / 2.5))


def largest_index_below(value: float, edges: Sequence[float]) -> int:
    """Returns the largest index whose edge is below `value`. A value on an edge belongs to the bin below the edge."""
    return int(np.searchsorted(edges, value, side="left")) - 1
