"""Labels at points, the scales by which they are placed, and figures that cannot be drawn."""

from itertools import combinations

import numpy as np
import pytest

from moppa.report.plots.figure_files import remove_figure
from moppa.report.plots.labels import Box, place_labels
from moppa.report.plots.scales import fit_scale


def test_labels_at_points_cover_neither_points_nor_each_other():
    generator = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in generator.uniform(100, 220, (12, 2))]
    boxes = place_labels(points, [f"method {index}" for index in range(12)], 520, 340)
    markers = [Box(left=x - 4, top=y - 4, right=x + 4, bottom=y + 4) for x, y in points]
    assert all(box.outside(520, 340) == 0 for box in boxes)
    assert all(box.overlap(marker) == 0 for box in boxes for marker in markers)
    assert all(first.overlap(second) == 0 for first, second in combinations(boxes, 2))


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
