"""Labels at points, the scales by which they are placed, and figures that cannot be drawn."""

import numpy as np
import pytest

from moppa.report.plots.figure_files import remove_figure
from moppa.report.plots.labels import (
    FAR,
    Box,
    cross_boxes,
    cross_segments,
    outside,
    overlaps,
    place_labels,
    stretch,
)
from moppa.report.plots.scales import fit_scale


def corners(boxes):
    return np.array([box.corners for box in boxes])


def covered(boxes):
    """Returns the area that labels share with other labels."""
    areas = overlaps(corners(boxes), corners(boxes))
    return areas[~np.eye(len(boxes), dtype=bool)].sum()


def test_labels_at_points_cover_neither_points_nor_each_other():
    generator = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in generator.uniform(100, 220, (12, 2))]
    boxes = place_labels(points, [f"method {index}" for index in range(12)], 520, 340)
    markers = np.array([(x - 4, y - 4, x + 4, y + 4) for x, y in points])
    assert not outside(corners(boxes), 520, 340).any()
    assert not overlaps(corners(boxes), markers).any()
    assert covered(boxes) == 0


def test_the_names_of_forty_methods_are_legible(unchecked):
    """Many methods have about as many parameters and about the same accuracy; three points are nearly one."""
    generator = np.random.default_rng(1)
    width, height = (stretch(40) * size for size in (520, 340))
    points = [(float(x), float(y)) for x, y in generator.normal((400, 220), (110, 70), (40, 2))]
    points[1], points[2] = points[0], (points[0][0] + 3, points[0][1])
    drawn = [((200.0, 150.0), (400.0, 150.0)), ((400.0, 150.0), (400.0, 90.0))]
    boxes = place_labels(points, ["expert_name"] * 40, width, height, drawn=drawn)
    assert not outside(corners(boxes), width, height).any()
    assert covered(boxes) == 0
    assert cross_boxes(np.array([(*start, *end) for start, end in drawn]), corners(boxes)).sum() <= 2
    leaders = np.array([(*point, *box.nearest(point)) for point, box in zip(points, boxes, strict=True)])
    leaders = leaders[np.hypot(*(leaders[:, 2:] - leaders[:, :2]).T) > FAR]
    assert cross_boxes(leaders, corners(boxes)).sum() <= 8
    assert cross_segments(leaders, leaders).sum() <= 2 * 4  # each is found twice


def test_segments_cross_rectangles_and_each_other():
    box = Box(left=0, top=0, right=4, bottom=2)
    segments = np.array(
        [(-1, 1, 5, 1), (1, 1, 9, 9), (1, 1, 2, 1), (5, -1, 5, 9), (-1, 0, 5, 0), (5, 0, 9, 9)], dtype=float
    )
    assert cross_boxes(segments, corners([box]).astype(float)).T.tolist() == [[True, True, True, False, False, False]]
    assert box.nearest((9, 1)) == (4, 1)
    others = np.array([(0, 2, 2, 0), (2, 2, 3, 3)], dtype=float)
    assert cross_segments(np.array([(0.0, 0, 2, 2)]), others).tolist() == [[True, False]]


def test_a_plot_of_few_points_has_the_usual_size():
    assert stretch(3) == stretch(16) == 1
    assert stretch(64) == 2


@pytest.mark.parametrize("kind", ["linear", "log", "symlog"])
def test_a_scale_holds_its_values_with_a_margin_and_its_inverse_is_exact(kind):
    scale = fit_scale([3.0, 700.0], kind, constant=5)
    assert 0 < scale.share(3) < 0.1 < 0.9 < scale.share(700) < 1
    assert scale.inverse(scale.forward(42.0)) == pytest.approx(42)


def test_a_figure_that_cannot_be_drawn_leaves_no_old_file(tmp_path):
    paths = [tmp_path / f"x-cost.{suffix}" for suffix in ("png", "svg")]
    for path in paths:
        path.touch()
    remove_figure(tmp_path / "x-cost")
    assert not any(path.exists() for path in paths)
