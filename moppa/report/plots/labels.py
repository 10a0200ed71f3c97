"""Labels at points: where they go without covering points or each other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from moppa.report.plots.encodings import Spec, point_texts

CHARACTER, LINE = 5.6, 12.0  # width and height in pixels of 10 px text
MARKER = 6.0  # half the size of a point, with a margin
DIRECTIONS = ((1, -1), (1, 1), (1, 0), (-1, -1), (-1, 1), (-1, 0), (0, -1), (0, 1))  # lines run to the right and up
FAR = 10.0  # from here on a line joins a label and its point
DISTANCES = (9.0, 20.0, 32.0, 46.0, 62.0, 80.0, 100.0, 125.0)
COVERED, CROSSING = 10.0, 40.0  # the costs of a covered square pixel, and of a line over a point, a text or a line
ROOMY = 16  # so many points fit a plot of the usual size
Point = tuple[float, float]
Segment = tuple[Point, Point]
Boxes = Float[np.ndarray, "_ 4"]  # left, top, right and bottom of rectangles, or the ends of segments


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """The upper left corner and the lower right one."""
        return self.left, self.top, self.right, self.bottom

    def nearest(self, point: Point) -> Point:
        """Returns the point of the rectangle that is nearest to a point."""
        return min(max(point[0], self.left), self.right), min(max(point[1], self.top), self.bottom)


def stretch(num_points: int) -> float:
    """Returns by which factor a plot is wider and higher than usual, so that the labels of many points fit."""
    return max(1.0, math.sqrt(num_points / ROOMY))


def place_labels(
    points: Sequence[Point], texts: Sequence[str], width: float, height: float, *, drawn: Sequence[Segment] = ()
) -> list[Box]:
    """Returns the rectangle of each label, near its point (x, y), in pixels of a plot of this size.

    Points with close neighbors choose first. A label takes the nearest of its candidates that covers nothing and whose
    line to the point crosses nothing. `drawn` are segments of a line in the plot.
    """
    markers = np.array([(x - MARKER, y - MARKER, x + MARKER, y + MARKER) for x, y in points])
    crowding = [sum(math.dist(point, other) < 60 for other in points) for point in points]
    lines = np.array([(*start, *end) for start, end in drawn]).reshape(-1, 4)
    placed: dict[int, Box] = {}
    for index in sorted(range(len(points)), key=lambda index: (-crowding[index], index)):
        offered = candidates(points[index], texts[index])
        boxes = np.array([box.corners for box in offered])
        leaders = np.array([(*points[index], *box.nearest(points[index])) for box in offered])
        is_far = np.hypot(*(leaders[:, 2:] - leaders[:, :2]).T) > FAR
        labels = np.array([box.corners for box in placed.values()]).reshape(-1, 4)
        covered = overlaps(boxes, np.concatenate([markers, labels])).sum(axis=1)
        crossed = cross_boxes(lines, boxes).sum(axis=0) + is_far * (
            cross_boxes(leaders, np.concatenate([np.delete(markers, index, axis=0), labels])).sum(axis=1)
            + cross_segments(leaders, lines).sum(axis=1)
        )
        costs = 50 * outside(boxes, width, height) + COVERED * covered + CROSSING * crossed
        best = int(costs.argmin())  # the first of equal ones
        placed[index] = offered[best]
        lines = np.concatenate([lines, leaders[[best]]]) if is_far[best] else lines
    return [placed[index] for index in range(len(points))]


def outside(boxes: Boxes, width: float, height: float) -> Float[np.ndarray, " count"]:
    """Returns by how many pixels each rectangle leaves the plot."""
    left, top, right, bottom = boxes.T
    return np.maximum(0, [-left, -top, right - width, bottom - height]).sum(axis=0)


def overlaps(boxes: Boxes, others: Boxes) -> Float[np.ndarray, "boxes others"]:
    """Returns the areas that rectangles share."""
    shared = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    return np.maximum(0, shared).prod(axis=-1)


def cross_boxes(segments: Boxes, boxes: Boxes) -> Bool[np.ndarray, "segments boxes"]:
    """Returns which segments (start x and y, end x and y) have a point inside of which rectangles."""
    start, move = segments[:, None, :2], segments[:, None, 2:] - segments[:, None, :2]
    with np.errstate(divide="ignore", invalid="ignore"):
        first, last = ((side - start) / move for side in (boxes[:, :2], boxes[:, 2:]))
    enter = np.fmin(first, last).max(axis=-1)  # as a share of the segment; fmin passes over 0 / 0, along an edge
    leave = np.fmax(first, last).min(axis=-1)
    return np.maximum(enter, 0) < np.minimum(leave, 1)


def cross_segments(segments: Boxes, others: Boxes) -> Bool[np.ndarray, "segments others"]:
    """Returns which segments cross."""

    def side(lines: np.ndarray, points: np.ndarray) -> np.ndarray:
        (dx, dy), (x, y) = (
            np.moveaxis(lines[..., 2:] - lines[..., :2], -1, 0),
            np.moveaxis(points - lines[..., :2], -1, 0),
        )
        return dx * y - dy * x

    first, second = segments[:, None], others[None]
    ends = [(first, second[..., :2], second[..., 2:]), (second, first[..., :2], first[..., 2:])]
    return np.logical_and(*(side(line, a) * side(line, b) < 0 for line, a, b in ends))


def candidates(point: Point, text: str) -> list[Box]:
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


def label_layers(
    points: Mapping[str, Point], width: float, height: float, *, drawn: Sequence[Segment] = ()
) -> list[Spec]:
    """Returns the layers of the labels of rows, and of lines to the points that are not beside theirs.

    Args:
        points: x and y in pixels, by row.
        width: of the plot.
        height: of the plot.
        drawn: segments of a line in the plot, which labels should not cover.
    """
    texts = point_texts(list(points))
    boxes = place_labels(list(points.values()), [texts[row] for row in points], width, height, drawn=drawn)
    labels, lines = [], []
    for (row, (x, y)), box in zip(points.items(), boxes, strict=True):
        end_x, end_y = box.nearest((x, y))
        middle = (box.top + box.bottom) / 2
        labels.append({"row": row, "text": texts[row], "x": round(box.left, 1), "y": round(middle, 1)})
        if math.dist((x, y), (end_x, end_y)) > FAR:
            lines.append({"x": round(x, 1), "y": round(y, 1), "end_x": round(end_x, 1), "end_y": round(end_y, 1)})
    pixel = {"type": "quantitative", "scale": None, "axis": None}
    position = {"x": {"field": "x", **pixel}, "y": {"field": "y", **pixel}}
    line_mark = {"type": "rule", "color": "#aaa", "strokeWidth": 0.6}
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
