"""Labels at points: where they go without covering points or each other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moppa.report.plots.encodings import Spec, point_texts

CHARACTER, LINE = 5.6, 12.0  # width and height in pixels of 10 px text
MARKER = 6.0  # half the size of a point, with a margin
DIRECTIONS = ((1, -1), (1, 1), (1, 0), (-1, -1), (-1, 1), (-1, 0), (0, -1), (0, 1))  # lines run to the right and up
FAR = 16.0  # from here on a line joins a label and its point
DISTANCES = (9.0, 20.0, 32.0, 46.0, 62.0, 80.0)


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Returns the area that two rectangles share."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def outside(self, width: float, height: float) -> float:
        """Returns by how many pixels a rectangle leaves the plot."""
        return (
            max(0.0, -self.left) + max(0.0, -self.top) + max(0.0, self.right - width) + max(0.0, self.bottom - height)
        )


def place_labels(points: Sequence[tuple[float, float]], texts: Sequence[str], width: float, height: float) -> list[Box]:
    """Returns the rectangle of each label, near its point (x, y), in pixels of a plot of this size.

    Points with close neighbors choose first. A label takes the nearest of its candidates that covers nothing.
    """
    markers = [Box(left=x - MARKER, top=y - MARKER, right=x + MARKER, bottom=y + MARKER) for x, y in points]
    crowding = [sum(math.dist(point, other) < 60 for other in points) for point in points]
    placed: dict[int, Box] = {}
    for index in sorted(range(len(points)), key=lambda index: (-crowding[index], index)):

        def cost(box: Box) -> float:
            covered = sum(box.overlap(other) for other in (*markers, *placed.values()))
            return covered + 50 * box.outside(width, height)

        placed[index] = min(candidates(points[index], texts[index]), key=cost)  # the first of equal ones
    return [placed[index] for index in range(len(points))]


def candidates(point: tuple[float, float], text: str) -> list[Box]:
    """Returns the rectangles that a label may take, the nearest first."""
    x, y = point
    width = CHARACTER * len(text) + 2
    boxes = []
    for distance in DISTANCES:
        for horizontal, vertical in DIRECTIONS:
            scale = distance if horizontal == 0 or vertical == 0 else 0.75 * distance
            left = x + horizontal * scale - (width if horizontal < 0 else 0 if horizontal > 0 else width / 2)
            middle = y + vertical * scale
            boxes.append(Box(left=left, top=middle - LINE / 2, right=left + width, bottom=middle + LINE / 2))
    return boxes


def label_layers(points: Mapping[str, tuple[float, float]], width: float, height: float) -> list[Spec]:
    """Returns the layers of the labels of rows, and of lines to the points that are not beside theirs.

    Args:
        points: x and y in pixels, by row.
        width: of the plot.
        height: of the plot.
    """
    texts = point_texts(list(points))
    boxes = place_labels(list(points.values()), [texts[row] for row in points], width, height)
    labels, lines = [], []
    for (row, (x, y)), box in zip(points.items(), boxes, strict=True):
        end_x, end_y = min(max(x, box.left), box.right), (box.top + box.bottom) / 2
        labels.append({"row": row, "text": texts[row], "x": round(box.left, 1), "y": round(end_y, 1)})
        if math.dist((x, y), (end_x, end_y)) > FAR:
            lines.append({"x": round(x, 1), "y": round(y, 1), "end_x": round(end_x, 1), "end_y": round(end_y, 1)})
    pixel = {"type": "quantitative", "scale": None, "axis": None}
    position = {"x": {"field": "x", **pixel}, "y": {"field": "y", **pixel}}
    line_mark = {"type": "rule", "color": "#999", "strokeWidth": 0.7}
    text_mark = {"type": "text", "align": "left", "baseline": "middle", "fontSize": 10}
    layers: list[Spec] = [
        {
            "data": {"values": lines},
            "mark": line_mark,
            "encoding": {**position, "x2": {"field": "end_x"}, "y2": {"field": "end_y"}},
        },
        {"data": {"values": labels}, "mark": text_mark, "encoding": {**position, "text": {"field": "text"}}},
    ]
    return layers if lines else layers[1:]
